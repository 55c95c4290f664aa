"""What a stage minimises: one batch with its noise, and the loss of each stage as a module."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from de_model.data.pairs import Patches
from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.radiometry import to_signed
from de_model.training.losses import (
    Target,
    charbonnier,
    edge_charbonnier,
    enhancement_loss,
    noise_loss,
    valid_count,
)
from de_model.training.options import TrainingOptions
from de_model.training.sources import PatchSource, select
from de_model.training.stages import Stage, StageOptions

#: Share of the edge term in the loss of a reference with several outputs (DE section 7.1).
_EDGE_SHARE = 0.05


@runtime_checkable
class ManyOutputs(Protocol):
    """A reference network that is trained on more than its final output, such as MPRNet."""

    def training_outputs(self, cloudy: Tensor) -> Sequence[Tensor]:
        """Return all supervised estimates of the clear image `(batch, band, y, x)` in [0, 1], not clamped."""
        ...


class Batch(NamedTuple):
    """A batch, or a share of one, with everything that is drawn for it."""

    patches: Patches
    #: Unit Gaussian noise, of the shape of the images.
    eps: Tensor
    #: Timesteps `(batch,)`.
    t: Tensor
    #: Seeds `(batch,)` of whatever else is drawn for single images.
    seeds: Tensor
    #: Values in the whole batch that have truth.
    counted: Tensor

    def shares(self, number: int) -> list[Batch]:
        """Split into `number` parts that are as equal as can be; their losses add up to that of the whole.

        Raises:
            InvalidModelInput: there are fewer images than parts.
        """
        images = len(self.t)
        if images < number:
            raise InvalidModelInput(
                f"A batch of {images} cannot be shared by {number} (processes times accumulation); raise --batch."
            )
        edges = [images * i // number for i in range(number + 1)]
        parts = [slice(a, b) for a, b in pairwise(edges)]
        return [Batch(select(self.patches, p), self.eps[p], self.t[p], self.seeds[p], self.counted) for p in parts]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; the seeds stay where generators are."""
        p = self.patches
        moved = Patches(*(part.to(device) for part in (p.cloudy, p.clear, p.valid, p.obscured)))
        return Batch(moved, self.eps.to(device), self.t.to(device), self.seeds, self.counted.to(device))


def draw(source: PatchSource, options: StageOptions, step: int, seed: int, timesteps: int) -> Batch:
    """Return the batch of a step, on the CPU; it depends on seed, stage and step alone.

    Raises:
        TrainingFailed: the source holds no usable patch.
        InvalidModelInput: no pixel of the batch has truth.
    """
    patches = source.batch(step, options.batch)
    random = torch.Generator().manual_seed(_seed_of(seed, options.stage, step))
    eps = torch.randn(patches.clear.shape, generator=random)
    t = torch.randint(timesteps, (options.batch,), generator=random)
    seeds = torch.randint(2**31, (options.batch,), generator=random)
    return Batch(patches, eps, t, seeds, valid_count(patches.valid, patches.clear.shape[1]))


def _seed_of(seed: int, stage: Stage, step: int) -> int:
    return (seed * len(Stage) + list(Stage).index(stage)) * 10_000_000 + step


class Objective(nn.Module):
    """The loss of one stage."""

    def __init__(self, enhancer: Enhancer, stage: Stage, options: TrainingOptions) -> None:
        super().__init__()
        self.enhancer, self.stage, self.options = enhancer, stage, options

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of the loss by name; their sum is minimised."""
        if self.stage is Stage.REFERENCE:
            return self._reference(batch)
        x0 = to_signed(batch.patches.clear)
        target = Target(x0, batch.patches.valid, batch.eps, batch.t, batch.counted)
        if self.stage in (Stage.COARSE, Stage.FINE):
            # WA and reference take no part yet: the reference would be work for nothing.
            alone = self.enhancer.condition(batch.patches.cloudy, batch.patches.cloudy)
            return {"noise": noise_loss(self.enhancer, alone, target)}
        loss = enhancement_loss(self.enhancer, self.enhancer.condition(batch.patches.cloudy), target)
        return loss._asdict() if self.stage is Stage.JOINT else {"fusion": loss.fusion}

    def _reference(self, batch: Batch) -> dict[str, Tensor]:
        patches, network = batch.patches, self.enhancer.reference
        known = (patches.clear, patches.valid, batch.counted)
        found = (
            network.training_outputs(patches.cloudy) if isinstance(network, ManyOutputs) else [network(patches.cloudy)]
        )
        outputs = [output.float() for output in found]
        terms = {"charbonnier": torch.stack([charbonnier(o, *known) for o in outputs]).sum()}
        if len(outputs) > 1:
            terms["edge"] = _EDGE_SHARE * torch.stack([edge_charbonnier(o, *known) for o in outputs]).sum()
        return terms
