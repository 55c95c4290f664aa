"""The samplers: from noise to the clear image, deterministic given the noise, one evaluation of the model per step.

Images are `(batch, band, y, x)` in [-1, 1]; `t` is an original timestep, 0..T-1, 0 = least noise. All samplers solve
the diffusion ODE for the fused estimate, so the reference steers every step. Time is lambda = log(alpha / sigma), alpha
= sqrt(abar) and sigma = sqrt(1 - abar). With an estimate D held over a step of length h = lambda_t - lambda_s the ODE
has the exact solution

    x_t = (sigma_t / sigma_s) x_s + alpha_t (1 - exp(-h)) D;

DDIM takes the estimate at s as D, DPM-Solver++(2M) a combination of the last two. After the last step abar = 1, so
every sampler returns the last fused estimate itself, which lies in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from de_model.enhancer import Estimate
from de_model.inference.sampling import SamplerKind, scales_of
from de_model.schedule import Schedule

#: Gives the fused estimate for `x_t` at timesteps `t` `(batch,)`; conditions and eta are bound beforehand. `x_t` may be
#: smaller than the tile by a whole factor; conditions are then shrunk to match.
Estimator = Callable[[Tensor, Tensor], Estimate]
#: Gives unit Gaussian noise `(batch, band, y / scale, x / scale)` for `(stream, scale)`: by address, not by order of
#: asking. Different streams are independent.
NoiseSource = Callable[[int, int], Tensor]


class Start(NamedTuple):
    """An image noised to `timestep`, at which sampling begins instead of at pure noise."""

    timestep: int
    image: Tensor


class Sample(NamedTuple):
    """The clear image and the last W, both `(batch, band, y, x)`."""

    image: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Where sampling begins, how many evaluations it takes, and its noise."""

    schedule: Schedule
    #: Evaluations of the model.
    steps: int
    noise: NoiseSource
    #: None begins at pure noise.
    start: Start | None = None

    @property
    def timesteps(self) -> list[int]:
        """Timesteps of the evaluations, noisiest first (`Schedule.respaced`)."""
        return self.schedule.respaced(self.steps, self.start.timestep if self.start else None).tolist()

    def initial_state(self, scale: int = 1) -> Tensor:
        """Return the state at the first timestep, `(batch, band, y / scale, x / scale)`; uses noise stream 0."""
        noise = self.noise(0, scale)
        if self.start is None:
            return noise
        return self.schedule.add_noise(shrink(self.start.image, scale), noise, times(self.start.timestep, noise))


#: Samples from the initial state to the clear image; raises `InvalidModelInput` where steps or start do not fit the
#: schedule.
Sampler = Callable[[Estimator, Trajectory], Sample]


def ddim(estimate: Estimator, trajectory: Trajectory) -> Sample:
    """Sample with deterministic DDIM (Song et al. 2021), the paper's sampler."""
    timesteps, x_t = trajectory.timesteps, trajectory.initial_state()
    for t, following in pairwise(timesteps):
        x_t = ddim_step(trajectory.schedule, x_t, estimate(x_t, times(t, x_t)).fused, t, following)
    return _last(estimate, x_t, timesteps[-1])


def ddim_step(schedule: Schedule, x_t: Tensor, fused: Tensor, t: int, following: int) -> Tensor:
    """Return the state at `following`; the noise is derived again from the fused estimate (DE section 1.6)."""
    eps = schedule.noise_given_x0(x_t, fused, times(t, x_t))
    return schedule.add_noise(fused, eps, times(following, x_t))


def dpmpp2m(estimate: Estimator, trajectory: Trajectory) -> Sample:
    """Sample with DPM-Solver++(2M), midpoint form (Lu et al. 2022, arXiv 2211.01095, algorithm 2)."""
    timesteps, x = trajectory.timesteps, trajectory.initial_state()
    levels = [trajectory.schedule.level(t) for t in timesteps]
    previous: Tensor | None = None
    for i, (here, there) in enumerate(pairwise(levels)):
        data = current = estimate(x, times(timesteps[i], x)).fused
        h = there.log_ratio - here.log_ratio
        if previous is not None:  # at the middle of the step, on the line through the last two estimates
            ratio = (here.log_ratio - levels[i - 1].log_ratio) / h
            data = current + (current - previous) / (2 * ratio)
        x, previous = (there.sigma / here.sigma) * x - (there.alpha * math.expm1(-h)) * data, current
    return _last(estimate, x, timesteps[-1])


def pyramid(estimate: Estimator, trajectory: Trajectory) -> Sample:
    """Sample with DDIM at growing size: most steps at a fraction of the size, where the layout is decided.

    Where the size changes, pixels of the fused estimate are repeated and noised to the next timestep with fresh noise
    (streams 1, 2): the noise of the small image, enlarged, would not be independent from pixel to pixel.
    """
    timesteps, scales = trajectory.timesteps, scales_of(trajectory.steps)
    x_t, stream = trajectory.initial_state(scales[0]), 0
    for (t, following), (scale, next_scale) in zip(pairwise(timesteps), pairwise(scales), strict=True):
        fused = estimate(x_t, times(t, x_t)).fused
        if scale == next_scale:
            x_t = ddim_step(trajectory.schedule, x_t, fused, t, following)
        else:
            stream += 1
            enlarged = interpolate(fused, scale_factor=scale // next_scale, mode="nearest")
            x_t = trajectory.schedule.add_noise(enlarged, trajectory.noise(stream, next_scale), times(following, x_t))
    return _last(estimate, x_t, timesteps[-1])


SAMPLERS: dict[SamplerKind, Sampler] = {
    SamplerKind.DDIM: ddim,
    SamplerKind.DPMPP2M: dpmpp2m,
    SamplerKind.PYRAMID: pyramid,
}


def times(t: int, like: Tensor) -> Tensor:
    """Return timestep `t` for every image of the batch `like`, `(batch,)`."""
    return torch.full((len(like),), t, dtype=torch.long, device=like.device)


def shrink(image: Tensor, scale: int) -> Tensor:
    """Return the means of blocks of `scale` x `scale` pixels."""
    return image if scale == 1 else avg_pool2d(image, scale)


def _last(estimate: Estimator, x_t: Tensor, t: int) -> Sample:
    found = estimate(x_t, times(t, x_t))
    return Sample(found.fused, found.weight)
