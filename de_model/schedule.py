"""The forward process: linear variance schedule and the closed forms that follow from it.

Notation of the paper: `x0` clear image, `x_t` noised image, `eps` unit Gaussian noise, `abar_t` the
cumulative product of `1 - beta`. Images are `(batch, band, y, x)` in [-1, 1]; `t` is `(batch,)` integer,
0 = least noise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from de_model.errors import InvalidModelInput
from de_model.inference.sampling import check_steps

#: Ends of the linear schedule for T = 1000 (Ho et al. 2020, section 4); scaled by 1000 / T otherwise.
BETA_FIRST, BETA_LAST = 1e-4, 0.02


class Level(NamedTuple):
    """Signal and noise at one timestep."""

    #: `sqrt(abar)`, the share of the image.
    alpha: float
    #: `sqrt(1 - abar)`, the standard deviation of the noise.
    sigma: float
    #: `log(alpha / sigma)`, half the logarithm of the signal-to-noise ratio.
    log_ratio: float


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
        table = np.cumprod(1.0 - beta)
        self._levels = table.tolist()
        self.register_buffer("abar", torch.from_numpy(table), persistent=False)
        self.abar: Tensor

    def level(self, t: int) -> Level:
        """Return the noise level at timestep `t`, in double precision and without asking the device."""
        abar = self._levels[t]
        alpha, sigma = math.sqrt(abar), math.sqrt(1 - abar)
        return Level(alpha, sigma, math.log(alpha / sigma))

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

    def respaced(self, steps: int, start: int | None = None) -> NDArray[np.int64]:
        """Return the original timesteps of `steps` evaluations, noisiest first and ending at 0.

        Without `start` they are the multiples of T // `steps`, as published (DE section 4: 900, 800, ..., 0 for 10 of
        1000); with it they are spread evenly from `start` itself to 0 (400, 267, 133, 0 for 4), rounded half up. A
        single evaluation is made at `start`.

        Raises:
            InvalidModelInput: `start` is not within 0..T-1, or there are not so many timesteps.
        """
        check_steps(steps, start, self.timesteps)
        ascending = np.arange(steps, dtype=np.int64)
        if start is None:
            return (ascending * (self.timesteps // steps))[::-1].copy()
        gaps = max(1, steps - 1)
        return start - (2 * start * ascending + gaps - 1) // (2 * gaps)
