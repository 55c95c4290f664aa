"""Networks of DE: conditional noise predictor and the weight network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from de_model.presets import UNetConfig
from de_model.unet import UNet


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
