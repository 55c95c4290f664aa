"""Diffusion Enhancement: noise predictor, the weight network and a frozen reference, fused at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from de_model.card import ModelCard
from de_model.errors import InvalidModelInput
from de_model.presets import SIZES, UNetConfig
from de_model.radiometry import to_signed
from de_model.references.base import Reference
from de_model.references.networks import build_reference
from de_model.scene.model import SceneNetworks
from de_model.schedule import Schedule
from de_model.unet import UNet
from de_model.weighting import limit


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
    """What the networks get about a tile."""

    #: `(batch, band, y, x)` in [-1, 1].
    cloudy: Tensor
    #: `(batch, band, y, x)` in [-1, 1].
    reference: Tensor


class NoisePredictor(nn.Module):
    """Conditional noise predictor (CNP): predicts the noise in `x_t`, given the cloudy image.

    The cloudy image enters by channel concatenation only (DE section 1.2).
    """

    def __init__(self, bands: int, config: UNetConfig) -> None:
        super().__init__()
        self.net = UNet(2 * bands, bands, config)

    def forward(self, x_t: Tensor, cloudy: Tensor, t: Tensor) -> Tensor:
        """Return predicted noise `(batch, band, y, x)`.

        Args:
            x_t: noised image in [-1, 1] and beyond.
            cloudy: cloudy image in [-1, 1].
            t: `(batch,)` timesteps, 0..T-1.

        Raises:
            InvalidModelInput: sides do not fit the stride.
        """
        return self.net(torch.cat([x_t, cloudy], dim=1), t)


class WeightAllocation(nn.Module):
    """The weight network (WA): the share W of the reference, per band and pixel.

    The output is linear and starts at zero, so untrained WA is pure diffusion (DE section 1.4).
    """

    def __init__(self, bands: int, config: UNetConfig) -> None:
        super().__init__()
        self.net = UNet(3 * bands, bands, config)

    def forward(self, x_t: Tensor, cloudy: Tensor, reference: Tensor, t: Tensor) -> Tensor:
        """Return W `(batch, band, y, x)`, unbounded; arguments and errors as in `NoisePredictor.forward`."""
        return self.net(torch.cat([x_t, cloudy, reference], dim=1), t)


class Enhancer(nn.Module):
    """The whole model. The reference is never trained together with the other two."""

    def __init__(self, card: ModelCard) -> None:
        super().__init__()
        sizes, bands = SIZES[card.preset], len(card.bands)
        self.card = card
        self.schedule = Schedule(card.timesteps)
        #: Networks of the second edition; None for the published structure.
        self.scene: SceneNetworks | None = None
        if card.scene is not None:
            self.scene = SceneNetworks(bands, card.scene.sizes, card.timesteps)
            return
        self.predictor = NoisePredictor(bands, sizes.predictor)
        self.allocation = WeightAllocation(bands, sizes.allocation)
        self.reference: Reference = build_reference(card.reference, bands, sizes)

    def channels_last(self) -> Enhancer:
        """Lay out convolution weights for speed (channels innermost) and return the model itself."""
        for parameter in self.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return self

    def condition(self, cloudy_unit: Tensor) -> Condition:
        """Gather what the networks get; the reference runs once per image (DE section 1.3).

        Args:
            cloudy_unit: `(batch, band, y, x)` companded to [0, 1].

        Raises:
            InvalidModelInput: the bands or sides do not fit.
        """
        if self.scene is not None:
            raise InvalidModelInput("A model of the second edition is not asked tile by tile; call restore.")
        return Condition(to_signed(cloudy_unit), to_signed(self.reference.estimate(cloudy_unit)))

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
        x0_hat = self.schedule.estimate_x0(x_t, self.predictor(x_t, condition.cloudy, t), t)
        raw = self.allocation(x_t, condition.cloudy, condition.reference, t)
        weight = limit(raw, eta, self.card.weight_mode)
        fused = weight * condition.reference + (1 - weight) * x0_hat
        return Estimate(fused, weight, x0_hat)
