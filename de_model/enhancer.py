"""Diffusion Enhancement: noise predictor, weight allocation and a frozen reference, fused at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from de_model.card import ModelCard
from de_model.errors import InvalidModelInput
from de_model.networks import NoisePredictor, WeightAllocation
from de_model.presets import SIZES
from de_model.radiometry import to_signed, to_unsigned
from de_model.references.light import LightReference
from de_model.schedule import Schedule
from de_model.weighting import limit, weight_mode


class Estimate(NamedTuple):
    """One fused estimate of the clear image; all `(batch, band, y, x)`, images in [-1, 1]."""

    #: `W * reference + (1 - W) * x0_hat`.
    fused: Tensor
    #: W after limiting to [eta, 1].
    weight: Tensor
    #: The diffusion's own estimate, clamped.
    x0_hat: Tensor


@dataclass(frozen=True, slots=True)
class Condition:
    """What the networks are told about a tile: cloudy image and reference, both in [-1, 1]."""

    cloudy: Tensor
    reference: Tensor


class Enhancer(nn.Module):
    """The whole model. The reference is never trained together with the other two."""

    def __init__(self, card: ModelCard) -> None:
        super().__init__()
        sizes, bands = SIZES[card.preset], len(card.bands)
        self.card = card
        self.schedule = Schedule(card.timesteps)
        self.predictor = NoisePredictor(bands, sizes.predictor)
        self.allocation = WeightAllocation(bands, sizes.allocation)
        self.reference = LightReference(bands, sizes.reference_base)

    @property
    def stride(self) -> int:
        """Height and width of every input must be divisible by this."""
        return max(self.predictor.net.config.stride, self.allocation.net.config.stride, self.reference.stride)

    def channels_last(self) -> Enhancer:
        """Lay out convolution weights for speed (channels innermost) and return the model itself."""
        for parameter in self.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return self

    def condition(self, cloudy_unit: Tensor) -> Condition:
        """Run the reference once per image (DE section 1.3).

        Args:
            cloudy_unit: `(batch, band, y, x)` companded to [0, 1].
        """
        reference = self.reference.estimate(cloudy_unit)
        return Condition(cloudy=to_signed(cloudy_unit), reference=to_signed(reference))

    def estimate(self, x_t: Tensor, condition: Condition, t: Tensor, eta: float) -> Estimate:
        """Return the fused estimate at step `t` (DE section 1.5).

        Args:
            x_t: `(batch, band, y, x)`, the noised image.
            condition: cloudy image and reference.
            t: `(batch,)` original timesteps, 0..T-1.
            eta: floor of the reference's share, 0..1; 1 returns the reference exactly.

        Raises:
            InvalidModelInput: `eta` is outside 0..1.
        """
        if not 0 <= eta <= 1:
            raise InvalidModelInput(f"eta is {eta}; it is the reference's least share and must lie in 0..1.")
        eps = self.predictor(x_t, condition.cloudy, t)
        x0_hat = self.schedule.estimate_x0(x_t, eps, t)
        raw = self.allocation(x_t, condition.cloudy, condition.reference, t)
        weight = limit(raw, eta, weight_mode(self.card.weight_mode))
        fused = weight * condition.reference + (1 - weight) * x0_hat
        return Estimate(fused, weight, x0_hat)

    def finish(self, x0: Tensor) -> Tensor:
        """Return the companded [0, 1] image of a final estimate in [-1, 1]."""
        return to_unsigned(x0)
