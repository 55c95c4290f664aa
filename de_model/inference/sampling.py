"""How a scene is restored: what settings hold and products record, without torch, which takes seconds to load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from de_model.errors import InvalidModelInput
from de_model.sampling.kinds import SamplerKind, check_steps, coarsest_scale, sampler_kind

if TYPE_CHECKING:
    from de_model.card import ModelCard


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a scene is restored; recorded with every product."""

    seed: int = 0
    #: Independent samples per tile; their mean is the image, their deviation the spread.
    samples: int = 2
    #: Evaluations of the model per sample.
    steps: int = 10
    #: Floor of the reference's share, 0..1.
    eta: float = 0.3
    #: Side of a tile, pixels.
    tile: int = 128
    overlap: int = 32
    sampler: SamplerKind = SamplerKind.DDIM
    #: Timestep, 0..T-1, at which sampling begins with the noised reference; None begins with pure noise.
    start: int | None = None

    @property
    def grid(self) -> int:
        """Tiles begin on multiples of this, pixels: the blocks of the sampler's smallest image."""
        return coarsest_scale(self.sampler, self.steps)

    def check(self, card: ModelCard) -> None:
        """Raise `InvalidModelInput` when a value cannot work with the model of `card`."""
        if self.samples < 1:
            raise InvalidModelInput(f"samples={self.samples}; choose at least 1.")
        if not 0 <= self.eta <= 1:
            raise InvalidModelInput(f"eta is {self.eta}; it must lie in 0..1.")
        sampler_kind(self.sampler)
        check_steps(self.steps, self.start, card.timesteps)
        self._check_tiling(card.stride * self.grid)

    def _check_tiling(self, unit: int) -> None:
        where = f" for sampler {self.sampler}" if self.grid > 1 else ""
        if self.tile < unit or self.tile % unit:
            raise InvalidModelInput(f"Tile of {self.tile} px; choose a multiple of {unit} px{where}.")
        if self.overlap % self.grid:
            raise InvalidModelInput(f"Overlap of {self.overlap} px; choose a multiple of {self.grid} px{where}.")


def sampling_for(card: ModelCard) -> Sampling:
    """Return the settings that suit a model: one set for predict, runs and the packaged model."""
    if card.scene is not None:
        own = card.scene
        return Sampling(
            samples=own.samples,
            steps=own.steps,
            eta=card.eta,
            tile=own.tile,
            overlap=own.overlap,
            start=own.t_start,
        )
    return Sampling(eta=card.eta)
