"""Training the weight network on the states that sampling really visits.

As published, WA is trained on noised truth: near t = 0 the noise predictor's estimate is then almost the truth, and WA
learns to leave the reference alone. At inference the same step sees a state that carries every earlier error, and the
reference would have helped. Here the model samples from pure noise to the step that is trained (Ross et al. 2011,
DAgger: learn on the states of one's own policy), so that WA learns how far each of the two can be trusted there.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from de_model.enhancer import Condition, Enhancer
from de_model.sampling.samplers import ddim_step

#: Steps of the sampling schedule; that of the default sampler.
STEPS = 10


@torch.no_grad()
def visited_states(enhancer: Enhancer, condition: Condition, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the states `(batch, band, y, x)` that DDIM visits, and their timesteps `(batch,)`.

    Args:
        enhancer: the model as it is now.
        condition: cloudy image and reference.
        eps: unit Gaussian noise that sampling starts from, of the shape of the images.
        t: `(batch,)` wanted timesteps, 0..T-1; each is lowered to one of the schedule's.
    """
    schedule = enhancer.schedule
    timesteps = torch.from_numpy(schedule.respaced(STEPS).copy()).to(t.device)
    # The schedule's own first step serves whatever lies above it.
    wanted = torch.stack([timesteps[timesteps <= value].max() for value in t])
    state = eps.clone()
    for step, following in pairwise(timesteps):
        moving = wanted < step
        if not bool(moving.any()):
            break
        now = step.expand(int(moving.sum()))
        here = state[moving]
        fused = enhancer.estimate(here, _part(condition, moving), now, enhancer.card.eta).fused.float()
        state[moving] = ddim_step(schedule, here, fused, int(step), int(following))
    return state, wanted


def _part(condition: Condition, which: Tensor) -> Condition:
    """Return the condition of some images of a batch."""
    optional = (None if value is None else value[which] for value in (condition.gsd, condition.band_mask))
    return Condition(condition.cloudy[which], condition.reference[which], *optional)
