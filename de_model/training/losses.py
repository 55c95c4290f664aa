"""The losses of DE, computed where truth exists.

Images are `(batch, band, y, x)` in [-1, 1]; `valid` is `(batch, 1, y, x)`, 1 where truth exists. `count` is the number
of values a mean is taken over; it is given where the images are a share of a larger batch, so that the shares' losses
add up to the loss of the whole.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from de_model.enhancer import Condition, Enhancer
from de_model.errors import InvalidModelInput
from de_model.weighting import limit_in_training

#: Charbonnier's epsilon (MPRNet's value; DE section 7.1), on [0, 1] images.
_CHARBONNIER = 1e-3
#: The 5-tap Gaussian of the Laplacian pyramid (DE section 7.1; Burt & Adelson 1983).
_GAUSSIAN = (0.05, 0.25, 0.4, 0.25, 0.05)


class DiffusionLoss(NamedTuple):
    """The two terms of DE's training."""

    noise: Tensor
    fusion: Tensor


class Target(NamedTuple):
    """What the networks are to find in one step, and how the truth was hidden from them."""

    #: Clear image in [-1, 1].
    x0: Tensor
    valid: Tensor
    #: Unit Gaussian noise, of the shape of `x0`.
    eps: Tensor
    #: Timesteps `(batch,)`, 0..T-1.
    t: Tensor
    #: Values the means are taken over; None: those of this batch.
    counted: Tensor | None = None


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


def noise_loss(enhancer: Enhancer, condition: Condition, target: Target) -> Tensor:
    """Return L_eps, the mean squared error of the predicted noise (DE section 1.7, stage 1)."""
    x_t = enhancer.schedule.add_noise(target.x0, target.eps, target.t)
    predicted = enhancer.noise_in(x_t, condition, target.t).float()
    return masked_mean((predicted - target.eps).square(), target.valid, target.counted)


def enhancement_loss(enhancer: Enhancer, condition: Condition, target: Target) -> DiffusionLoss:
    """Return L_eps and L_W (DE section 1.7, stages 2 and 3).

    L_W = |x0 - (1 - W) x0_hat - W r| with x0_hat clamped and detached, so that WA learns from L_W alone and the noise
    predictor from L_eps alone. W is unlimited unless the card says `bounded`.
    """
    x_t = enhancer.schedule.add_noise(target.x0, target.eps, target.t)
    predicted = enhancer.noise_in(x_t, condition, target.t).float()
    x0_hat = enhancer.schedule.estimate_x0(x_t, predicted.detach(), target.t)
    raw = enhancer.raw_weight(x_t, condition, target.t).float()
    weight = limit_in_training(raw, enhancer.card.eta, enhancer.card.weight_mode)
    fused = weight * condition.reference + (1 - weight) * x0_hat
    return DiffusionLoss(
        masked_mean((predicted - target.eps).square(), target.valid, target.counted),
        masked_mean((target.x0 - fused).abs(), target.valid, target.counted),
    )
