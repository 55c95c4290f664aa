"""The losses of DE, computed where truth exists.

Images are `(batch, band, y, x)` in [-1, 1]; `valid` is `(batch, 1, y, x)`, 1 where truth exists.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from de_model.enhancer import Condition, Enhancer
from de_model.errors import InvalidModelInput
from de_model.weighting import limit_in_training, weight_mode

#: Charbonnier's epsilon (MPRNet's value; DE section 7.1), on [0, 1] images.
_CHARBONNIER = 1e-3


class DiffusionLoss(NamedTuple):
    """The two terms of DE's training; `fusion` is zero while WA is not trained."""

    noise: Tensor
    fusion: Tensor


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean of `values` over bands and valid pixels.

    Raises:
        InvalidModelInput: no pixel is valid.
    """
    count = valid.sum() * values.shape[1]
    if count == 0:
        raise InvalidModelInput("A batch without a single valid pixel has no loss.")
    return (values * valid).sum() / count


def charbonnier(estimate: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Return the smooth L1 distance that reference networks are trained with; images in [0, 1]."""
    return masked_mean(((estimate - truth).square() + _CHARBONNIER**2).sqrt(), valid)


def noise_loss(enhancer: Enhancer, x0: Tensor, condition: Condition, valid: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Return L_eps, the mean squared error of the predicted noise (DE section 1.7, stage 1)."""
    x_t = enhancer.schedule.add_noise(x0, eps, t)
    return masked_mean((enhancer.predictor(x_t, condition.cloudy, t) - eps).square(), valid)


def enhancement_loss(
    enhancer: Enhancer, x0: Tensor, condition: Condition, valid: Tensor, eps: Tensor, t: Tensor
) -> DiffusionLoss:
    """Return L_eps and L_W (DE section 1.7, stages 2 and 3).

    L_W = |x0 - (1 - W) x0_hat - W r| with x0_hat clamped and detached, so WA learns from L_W alone and the noise
    predictor from L_eps alone. W is unlimited unless the card says `bounded`.
    """
    x_t = enhancer.schedule.add_noise(x0, eps, t)
    predicted = enhancer.predictor(x_t, condition.cloudy, t)
    with torch.no_grad():
        x0_hat = enhancer.schedule.estimate_x0(x_t, predicted, t)
    raw = enhancer.allocation(x_t, condition.cloudy, condition.reference, t)
    weight = limit_in_training(raw, enhancer.card.eta, weight_mode(enhancer.card.weight_mode))
    fused = weight * condition.reference + (1 - weight) * x0_hat
    return DiffusionLoss(masked_mean((predicted - eps).square(), valid), masked_mean((x0 - fused).abs(), valid))
