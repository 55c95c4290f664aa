"""What every sampler is given, and what it gives back.

Images are `(batch, band, y, x)` in [-1, 1]; `t` is an original timestep, 0..T-1, 0 = least noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from de_model.enhancer import Estimate
from de_model.schedule import Schedule


class Estimator(Protocol):
    """Gives the fused estimate for `(x_t, t)`; conditions and eta are bound beforehand."""

    def __call__(self, x_t: Tensor, t: Tensor) -> Estimate:
        """Return the estimate for `x_t` at timesteps `t` `(batch,)`.

        `x_t` may be smaller than the tile by a whole factor; conditions are then shrunk to match.
        """
        ...


class NoiseSource(Protocol):
    """Unit Gaussian noise by address, not by order of asking: the same arguments give the same noise."""

    def __call__(self, stream: int, scale: int) -> Tensor:
        """Return noise `(batch, band, y / scale, x / scale)`; different streams are independent."""
        ...


class Start(NamedTuple):
    """A walk that begins midway, at an image noised to `timestep`, instead of at pure noise."""

    timestep: int
    image: Tensor


class Sample(NamedTuple):
    """The end of a walk: clear image and the last W, both `(batch, band, y, x)`."""

    image: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class Walk:
    """Where a walk begins, how many evaluations it takes, and its noise."""

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

    def beginning(self, scale: int = 1) -> Tensor:
        """Return the state at the first timestep, `(batch, band, y / scale, x / scale)`; uses noise stream 0."""
        noise = self.noise(0, scale)
        if self.start is None:
            return noise
        return self.schedule.add_noise(shrink(self.start.image, scale), noise, times(self.start.timestep, noise))


class Sampler(Protocol):
    """Walks from the beginning to the clear image."""

    def __call__(self, estimate: Estimator, walk: Walk) -> Sample:
        """Return the end of the walk.

        Raises:
            InvalidModelInput: the steps or the start do not fit the schedule.
        """
        ...


def times(t: int, like: Tensor) -> Tensor:
    """Return timestep `t` for every image of the batch `like`, `(batch,)`."""
    return torch.full((len(like),), t, dtype=torch.long, device=like.device)


def shrink(image: Tensor, scale: int) -> Tensor:
    """Return the means of blocks of `scale` x `scale` pixels."""
    return image if scale == 1 else avg_pool2d(image, scale)


def closing(estimate: Estimator, x_t: Tensor, t: int) -> Sample:
    """Return the end of a walk whose last evaluation is at `t`.

    After it abar = 1, so whatever its order every sampler returns the fused estimate itself, which lies in [-1, 1].
    """
    found = estimate(x_t, times(t, x_t))
    return Sample(found.fused, found.weight)
