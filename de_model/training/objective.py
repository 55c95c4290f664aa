"""What a stage minimises: one batch with its noise, the losses of DE where truth exists, and each stage's sum of them.

Images are `(batch, band, y, x)` in [-1, 1]; `valid` is `(batch, 1, y, x)`, 1 where truth exists. `count` is the number
of values a mean is taken over; it is given where the images are a share of a larger batch, so that the shares' losses
add up to the loss of the whole.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from de_model.data.pairs import Patches, PatchSampler
from de_model.enhancer import Condition, Enhancer
from de_model.errors import InvalidModelInput
from de_model.radiometry import to_signed
from de_model.training.stages import Stage, StageOptions
from de_model.weighting import limit_in_training

#: Charbonnier's epsilon (MPRNet's value; DE section 7.1), on [0, 1] images.
_CHARBONNIER = 1e-3
#: The 5-tap Gaussian of the Laplacian pyramid (DE section 7.1; Burt & Adelson 1983).
_GAUSSIAN = (0.05, 0.25, 0.4, 0.25, 0.05)
#: Share of the edge term in the loss of a reference with several outputs (DE section 7.1).
_EDGE_SHARE = 0.05


class Batch(NamedTuple):
    """A batch, or a share of one, with everything that is drawn for it."""

    patches: Patches
    #: Unit Gaussian noise, of the shape of the images.
    eps: Tensor
    #: Timesteps `(batch,)`.
    t: Tensor
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
        return [Batch(self.patches.part(p), self.eps[p], self.t[p], self.counted) for p in parts]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        p = self.patches
        moved = Patches(*(part.to(device) for part in (p.cloudy, p.clear, p.valid, p.obscured)))
        return Batch(moved, self.eps.to(device), self.t.to(device), self.counted.to(device))


def draw(source: PatchSampler, options: StageOptions, step: int, seed: int, timesteps: int) -> Batch:
    """Return the batch of a step, on the CPU; it depends on seed, stage and step alone.

    Raises:
        TrainingFailed: the source holds no usable patch.
        InvalidModelInput: no pixel of the batch has truth.
    """
    patches = source.batch(step, options.batch)
    random = torch.Generator().manual_seed(_seed_of(seed, options.stage, step))
    eps = torch.randn(patches.clear.shape, generator=random)
    t = torch.randint(timesteps, (options.batch,), generator=random)
    return Batch(patches, eps, t, valid_count(patches.valid, patches.clear.shape[1]))


def _seed_of(seed: int, stage: Stage, step: int) -> int:
    return (seed * len(Stage) + list(Stage).index(stage)) * 10_000_000 + step


def valid_count(valid: Tensor, bands: int) -> Tensor:
    """Return the number of values that have truth.

    Raises:
        InvalidModelInput: there is none.
    """
    count = valid.sum() * bands
    if count == 0:
        raise InvalidModelInput("A batch without a single valid pixel has no loss.")
    return count


def masked_mean(values: Tensor, valid: Tensor, count: Tensor | None = None) -> Tensor:
    """Return the mean of `values` over bands and valid pixels.

    Raises:
        InvalidModelInput: no pixel is valid.
    """
    return (values * valid).sum() / (valid_count(valid, values.shape[1]) if count is None else count)


def charbonnier(estimate: Tensor, truth: Tensor, valid: Tensor, count: Tensor | None = None) -> Tensor:
    """Return the smooth L1 distance that reference networks are trained with; images in [0, 1]."""
    return masked_mean(_smooth_abs(estimate - truth), valid, count)


def edge_charbonnier(estimate: Tensor, truth: Tensor, valid: Tensor, count: Tensor | None = None) -> Tensor:
    """Return the smooth L1 distance of the edges (MPRNet, Zamir et al. 2021, eq. 3), for any number of bands.

    Edges are the difference to a blurred, thinned and blurred copy. The operator is linear, so it is taken of the
    difference, which is zero where there is no truth.
    """
    return masked_mean(_smooth_abs(laplacian((estimate - truth) * valid)), valid, count)


def laplacian(image: Tensor) -> Tensor:
    """Return what a coarser level of a Laplacian pyramid lacks, `(batch, band, y, x)`."""
    thinned = torch.zeros_like(image)
    thinned[..., ::2, ::2] = _blur(image)[..., ::2, ::2] * 4
    return image - _blur(thinned)


def _blur(image: Tensor) -> Tensor:
    bands, line = image.shape[1], image.new_tensor(_GAUSSIAN)
    kernel = torch.outer(line, line).expand(bands, 1, 5, 5)
    return F.conv2d(F.pad(image, (2, 2, 2, 2), mode="replicate"), kernel, groups=bands)


def _smooth_abs(difference: Tensor) -> Tensor:
    return (difference.square() + _CHARBONNIER**2).sqrt()


def noise_loss(enhancer: Enhancer, batch: Batch) -> Tensor:
    """Return L_eps, the mean squared error of the predicted noise (DE section 1.7, stage 1)."""
    x_t = enhancer.schedule.add_noise(to_signed(batch.patches.clear), batch.eps, batch.t)
    predicted = enhancer.predictor(x_t, to_signed(batch.patches.cloudy), batch.t).float()
    return masked_mean((predicted - batch.eps).square(), batch.patches.valid, batch.counted)


class DiffusionLoss(NamedTuple):
    """The two terms of DE's training."""

    noise: Tensor
    fusion: Tensor


def enhancement_loss(enhancer: Enhancer, condition: Condition, batch: Batch) -> DiffusionLoss:
    """Return L_eps and L_W (DE section 1.7, stages 2 and 3).

    L_W = |x0 - (1 - W) x0_hat - W r| with x0_hat clamped and detached, so that WA learns from L_W alone and the noise
    predictor from L_eps alone. W is unlimited unless the card says `bounded`.
    """
    x0, valid = to_signed(batch.patches.clear), batch.patches.valid
    x_t = enhancer.schedule.add_noise(x0, batch.eps, batch.t)
    predicted = enhancer.predictor(x_t, condition.cloudy, batch.t).float()
    x0_hat = enhancer.schedule.estimate_x0(x_t, predicted.detach(), batch.t)
    raw = enhancer.allocation(x_t, condition.cloudy, condition.reference, batch.t).float()
    weight = limit_in_training(raw, enhancer.card.eta, enhancer.card.weight_mode)
    fused = weight * condition.reference + (1 - weight) * x0_hat
    return DiffusionLoss(
        masked_mean((predicted - batch.eps).square(), valid, batch.counted),
        masked_mean((x0 - fused).abs(), valid, batch.counted),
    )


class Objective(nn.Module):
    """The loss of one stage."""

    def __init__(self, enhancer: Enhancer, stage: Stage) -> None:
        super().__init__()
        self.enhancer, self.stage = enhancer, stage

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of the loss by name; their sum is minimised."""
        if self.stage is Stage.REFERENCE:
            return self._reference(batch)
        if self.stage in (Stage.COARSE, Stage.FINE):
            return {"noise": noise_loss(self.enhancer, batch)}
        loss = enhancement_loss(self.enhancer, self.enhancer.condition(batch.patches.cloudy), batch)
        return loss._asdict() if self.stage is Stage.JOINT else {"fusion": loss.fusion}

    def _reference(self, batch: Batch) -> dict[str, Tensor]:
        known = (batch.patches.clear, batch.patches.valid, batch.counted)
        outputs = [output.float() for output in self.enhancer.reference.training_outputs(batch.patches.cloudy)]
        terms = {"charbonnier": torch.stack([charbonnier(o, *known) for o in outputs]).sum()}
        if len(outputs) > 1:
            terms["edge"] = _EDGE_SHARE * torch.stack([edge_charbonnier(o, *known) for o in outputs]).sum()
        return terms
