"""DDIM: the sampler of the paper, and first order of the family."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from de_model.samplers.walk import Estimator, Sample, Walk, closing, times
from de_model.schedule import Schedule


def ddim_step(schedule: Schedule, x_t: Tensor, fused: Tensor, t: int, following: int) -> Tensor:
    """Return the state at `following`; the noise is derived again from the fused estimate (DE section 1.6)."""
    eps = schedule.noise_given_x0(x_t, fused, times(t, x_t))
    return schedule.add_noise(fused, eps, times(following, x_t))


def ddim(estimate: Estimator, walk: Walk) -> Sample:
    """Walk with deterministic DDIM (Song et al. 2021) on the fused estimate: the reference steers every step."""
    timesteps, x_t = walk.timesteps, walk.beginning()
    for t, following in pairwise(timesteps):
        fused = estimate(x_t, times(t, x_t)).fused
        x_t = ddim_step(walk.schedule, x_t, fused, t, following)
    return closing(estimate, x_t, timesteps[-1])
