"""Coarse to fine: most steps at a fraction of the size, where the layout is decided."""

from __future__ import annotations

from itertools import pairwise

from torch.nn.functional import interpolate

from de_model.samplers.ddim import ddim_step
from de_model.samplers.kinds import scales_of
from de_model.samplers.walk import Estimator, Sample, Walk, closing, times


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
