"""Coarse to fine: most steps at a fraction of the size, where the layout is decided."""

from __future__ import annotations

from itertools import pairwise

from torch.nn.functional import interpolate

from de_model.samplers.ddim import ddim_step
from de_model.samplers.walk import Estimator, Sample, Walk, closing, times


def scales_of(steps: int) -> list[int]:
    """Return the factor by which each step's image is smaller: of 10 steps six at 4, two at 2, two at 1.

    Other numbers of steps are divided in these shares, rounded; the last step always has full size (DE section 4).
    """
    quarter, half = (6 * steps + 5) // 10, (8 * steps + 5) // 10
    return [4 if i < quarter else 2 if i < half else 1 for i in range(steps - 1)] + [1]


def pyramid(estimate: Estimator, walk: Walk) -> Sample:
    """Walk with DDIM at growing size.

    Where the size changes, pixels of the fused estimate are repeated and noised to the next timestep with fresh noise
    (streams 1, 2): the noise of the small image, enlarged, would not be independent from pixel to pixel.
    """
    timesteps, scales = walk.timesteps, scales_of(walk.steps)
    x_t, stream = walk.beginning(scales[0]), 0
    for (t, following), (scale, next_scale) in zip(pairwise(timesteps), pairwise(scales), strict=True):
        fused = estimate(x_t, times(t, x_t)).fused
        if scale == next_scale:
            x_t = ddim_step(walk.schedule, x_t, fused, t, following)
        else:
            stream += 1
            enlarged = interpolate(fused, scale_factor=scale // next_scale, mode="nearest")
            x_t = walk.schedule.add_noise(enlarged, walk.noise(stream, next_scale), times(following, x_t))
    return closing(estimate, x_t, timesteps[-1])
