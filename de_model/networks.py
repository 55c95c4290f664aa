"""The two trained networks of DE: conditional noise predictor and the weight network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from de_model.conditioning import ContextEmbedding
from de_model.presets import Conditioning, UNetConfig
from de_model.unet import UNet

_UNCONDITIONED = Conditioning()


class NoisePredictor(nn.Module):
    """Conditional noise predictor (CNP): predicts the noise in `x_t`, given the cloudy image.

    The cloudy image enters by channel concatenation only (DE section 1.2), the optional conditions through
    the time embedding.
    """

    def __init__(self, bands: int, config: UNetConfig, conditioning: Conditioning = _UNCONDITIONED) -> None:
        super().__init__()
        self.net = UNet(2 * bands, bands, config)
        self.context = ContextEmbedding(bands, config.base, conditioning)

    def forward(
        self, x_t: Tensor, cloudy: Tensor, t: Tensor, gsd: Tensor | None = None, band_mask: Tensor | None = None
    ) -> Tensor:
        """Return predicted noise `(batch, band, y, x)`.

        Args:
            x_t: noised image in [-1, 1] and beyond.
            cloudy: cloudy image in [-1, 1].
            t: `(batch,)` timesteps, 0..T-1.
            gsd: `(batch,)` metres, for a model conditioned on it.
            band_mask: `(batch, band)`, for a model conditioned on it.

        Raises:
            InvalidModelInput: sides do not fit the stride, or the conditions are not the model's.
        """
        return self.net(torch.cat([x_t, cloudy], dim=1), t, self.context(gsd, band_mask))


class WeightAllocation(nn.Module):
    """The weight network (WA): the share W of the reference, per band and pixel.

    The output is linear and starts at zero, so untrained WA is pure diffusion (DE section 1.4).
    """

    def __init__(self, bands: int, config: UNetConfig, conditioning: Conditioning = _UNCONDITIONED) -> None:
        super().__init__()
        self.net = UNet(3 * bands, bands, config)
        self.context = ContextEmbedding(bands, config.base, conditioning)

    def forward(
        self,
        x_t: Tensor,
        cloudy: Tensor,
        reference: Tensor,
        t: Tensor,
        gsd: Tensor | None = None,
        band_mask: Tensor | None = None,
    ) -> Tensor:
        """Return W `(batch, band, y, x)`, unbounded; arguments and errors as in `NoisePredictor.forward`."""
        return self.net(torch.cat([x_t, cloudy, reference], dim=1), t, self.context(gsd, band_mask))
