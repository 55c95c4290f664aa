"""How a scene is restored: what settings hold and products record, without torch, which takes seconds to load."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import TYPE_CHECKING

from de_model.errors import InvalidModelInput

if TYPE_CHECKING:
    from de_model.card import ModelCard


@unique
class SamplerKind(StrEnum):
    """How sampling goes from noise to an image."""

    #: First order, every step at full size: the paper's.
    DDIM = "ddim"
    #: DPM-Solver++(2M): second order, for few steps.
    DPMPP2M = "dpmpp2m"
    #: DDIM from a quarter of the size to full size.
    PYRAMID = "pyramid"


def sampler_kind(name: str) -> SamplerKind:
    """Return the sampler called `name`.

    Raises:
        InvalidModelInput: there is none.
    """
    try:
        return SamplerKind(name)
    except ValueError as error:
        raise InvalidModelInput(f"Sampler {name} is unknown; choose one of {', '.join(SamplerKind)}.") from error


def check_steps(steps: int, start: int | None, timesteps: int) -> None:
    """Raise `InvalidModelInput` unless so many evaluations can be made of `timesteps`, or from `start` down to 0."""
    if start is not None and not 0 <= start < timesteps:
        raise InvalidModelInput(f"Start at timestep {start}; choose 0 to {timesteps - 1}.")
    available = timesteps if start is None else start + 1
    if not 1 <= steps <= available:
        raise InvalidModelInput(f"{steps} sampling steps asked of {available}; choose 1 to {available}.")


def scales_of(steps: int) -> list[int]:
    """Return the factor by which each step's image is smaller: of 10 steps six at 4, two at 2, two at 1.

    Other numbers of steps are divided in these shares, rounded; the last step always has full size (DE section 4).
    """
    quarter, half = (6 * steps + 5) // 10, (8 * steps + 5) // 10
    return [4 if i < quarter else 2 if i < half else 1 for i in range(steps - 1)] + [1]


def coarsest_scale(kind: SamplerKind, steps: int) -> int:
    """Return the factor by which the smallest image of a sampling schedule is smaller than a tile."""
    return scales_of(steps)[0] if kind is SamplerKind.PYRAMID else 1


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
