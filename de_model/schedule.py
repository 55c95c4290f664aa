"""The forward process: linear variance schedule and the closed forms that follow from it.

Notation of the paper: `x0` clear image, `x_t` noised image, `eps` unit Gaussian noise, `abar_t` the
cumulative product of `1 - beta`. Images are `(batch, band, y, x)` in [-1, 1]; `t` is `(batch,)` integer,
0 = least noise.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from de_model.errors import InvalidModelInput

#: Ends of the linear schedule for T = 1000 (Ho et al. 2020, section 4); scaled by 1000 / T otherwise.
BETA_FIRST, BETA_LAST = 1e-4, 0.02


class Schedule(nn.Module):
    """Linear schedule of `T` timesteps; tables are float64, cast to the image's type on use."""

    def __init__(self, timesteps: int = 1000) -> None:
        super().__init__()
        if timesteps < 20:
            # Below 20 steps the scaled beta exceeds 1 and abar turns negative.
            raise InvalidModelInput(f"{timesteps} timesteps are too few for a linear schedule; use 20 or more.")
        self.timesteps = timesteps
        scale = 1000 / timesteps
        beta = np.linspace(scale * BETA_FIRST, scale * BETA_LAST, timesteps, dtype=np.float64)
        self.register_buffer("abar", torch.from_numpy(np.cumprod(1.0 - beta)), persistent=False)
        self.abar: Tensor

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return `sqrt(abar_t)` and `sqrt(1 - abar_t)` as `(batch, 1, 1, 1)` in the type of `like`."""
        abar = self.abar[t].view(-1, 1, 1, 1)
        return abar.sqrt().to(like.dtype), (1 - abar).sqrt().to(like.dtype)

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return `x_t` given `x0` and `eps` (DE section 1.1: the marginal)."""
        signal, noise = self.coefficients(t, x0)
        return signal * x0 + noise * eps

    def estimate_x0(self, x_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return the estimate of `x0`, clamped to [-1, 1], from predicted noise (DE section 1.2)."""
        signal, noise = self.coefficients(t, x_t)
        return ((x_t - noise * eps) / signal).clamp(-1, 1)

    def noise_given_x0(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """Return the noise that explains `x_t` if the clear image were `x0` (DE section 1.6, step 3)."""
        signal, noise = self.coefficients(t, x_t)
        return (x_t - signal * x0) / noise

    def respaced(self, steps: int) -> NDArray[np.int64]:
        """Return `steps` original timesteps, noisiest first: 900, 800, ..., 0 for 10 of 1000.

        Raises:
            InvalidModelInput: `steps` is not within 1..T.
        """
        if not 1 <= steps <= self.timesteps:
            raise InvalidModelInput(f"{steps} sampling steps asked of {self.timesteps}; choose 1 to {self.timesteps}.")
        stride = self.timesteps // steps
        return (np.arange(steps, dtype=np.int64) * stride)[::-1].copy()
