"""The two trained networks of DE: conditional noise predictor and weight allocation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from de_model.unet import UNet, UNetConfig


class NoisePredictor(nn.Module):
    """Conditional noise predictor (CNP): predicts the noise in `x_t`, given the cloudy image.

    The condition enters by channel concatenation only (DE section 1.2).
    """

    def __init__(self, bands: int, config: UNetConfig) -> None:
        super().__init__()
        self.net = UNet(2 * bands, bands, config)

    def forward(self, x_t: Tensor, cloudy: Tensor, t: Tensor) -> Tensor:
        """Return predicted noise `(batch, band, y, x)`; images in [-1, 1], `t` `(batch,)` in 0..T-1."""
        return self.net(torch.cat([x_t, cloudy], dim=1), t)


class WeightAllocation(nn.Module):
    """Weight allocation (WA): the share W of the reference, per band and pixel.

    The output is linear and starts at zero, so untrained WA is pure diffusion (DE section 1.4).
    """

    def __init__(self, bands: int, config: UNetConfig) -> None:
        super().__init__()
        self.net = UNet(3 * bands, bands, config)

    def forward(self, x_t: Tensor, cloudy: Tensor, reference: Tensor, t: Tensor) -> Tensor:
        """Return W `(batch, band, y, x)`, unbounded; images in [-1, 1], `t` `(batch,)` in 0..T-1."""
        return self.net(torch.cat([x_t, cloudy, reference], dim=1), t)
