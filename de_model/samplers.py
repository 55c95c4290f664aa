"""Walking from noise to the clear image."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from de_model.enhancer import Estimate
from de_model.schedule import Schedule


class Estimator(Protocol):
    """Gives the fused estimate for `(x_t, t)`; conditions and eta are bound beforehand."""

    def __call__(self, x_t: Tensor, t: Tensor) -> Estimate:
        """Return the estimate for `x_t` `(batch, band, y, x)` at timesteps `t` `(batch,)`."""
        ...


class Sample(NamedTuple):
    """The end of a walk: clear image in [-1, 1] and the last W, both `(batch, band, y, x)`."""

    image: Tensor
    weight: Tensor


def ddim(estimate: Estimator, noise: Tensor, schedule: Schedule, steps: int) -> Sample:
    """Deterministic DDIM on the fused estimate (DE section 1.6).

    The noise of each step is derived again from the fused estimate, so the reference steers the whole
    walk; the last step has abar = 1, so the returned image is the fused estimate at t = 0.

    Args:
        estimate: the model with its conditions bound.
        noise: `(batch, band, y, x)` unit Gaussian, the state at the first timestep.
        schedule: forward process.
        steps: number of evaluations, 1..T.

    Raises:
        InvalidModelInput: `steps` is out of range.
    """
    timesteps = schedule.respaced(steps)
    x_t = noise
    for step, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        t = torch.full((len(noise),), int(step), dtype=torch.long, device=noise.device)
        found = estimate(x_t, t)
        if following is None:
            return Sample(found.fused, found.weight)
        eps = schedule.noise_given_x0(x_t, found.fused, t)
        x_t = schedule.add_noise(found.fused, eps, torch.full_like(t, int(following)))
    raise AssertionError("unreachable: respaced() returns at least one step")
