"""Second-order samplers that remember earlier estimates: DPM-Solver++(2M) and UniPC.

Both solve the diffusion ODE for the data prediction, here the fused estimate, so the reference steers them as it steers
DDIM, at one evaluation per step. Time is lambda = log(alpha / sigma), alpha = sqrt(abar) and sigma = sqrt(1 - abar).
With a data prediction D held over a step of length h = lambda_t - lambda_s the ODE has the exact solution

    x_t = (sigma_t / sigma_s) x_s + alpha_t (1 - exp(-h)) D,

and the samplers differ only in their D: DDIM takes the estimate at s, the others a combination of several.
D may leave [-1, 1]; the image that is returned never does (`walk.closing`).
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor

from de_model.samplers.walk import Estimator, Sample, Walk, closing, times
from de_model.schedule import Level


def advance(x: Tensor, data: Tensor, here: Level, there: Level) -> Tensor:
    """Return the state at noise level `there` from `x` at `here`, holding the data prediction `data`."""
    h = there.log_ratio - here.log_ratio
    return (there.sigma / here.sigma) * x - (there.alpha * math.expm1(-h)) * data


def extrapolated(current: Tensor, previous: Tensor, before: Level, here: Level, there: Level) -> Tensor:
    """Return D at the middle of the step from `here` to `there`, on the line through the last two estimates."""
    ratio = (here.log_ratio - before.log_ratio) / (there.log_ratio - here.log_ratio)
    return current + (current - previous) / (2 * ratio)


def dpmpp2m(estimate: Estimator, walk: Walk) -> Sample:
    """Walk with DPM-Solver++(2M), midpoint form (Lu et al. 2022, arXiv 2211.01095, algorithm 2)."""
    timesteps, x = walk.timesteps, walk.beginning()
    levels = [walk.schedule.level(t) for t in timesteps]
    previous: Tensor | None = None
    for i, (here, there) in enumerate(pairwise(levels)):
        current = estimate(x, times(timesteps[i], x)).fused
        data = current if previous is None else extrapolated(current, previous, levels[i - 1], here, there)
        x, previous = advance(x, data, here, there), current
    return closing(estimate, x, timesteps[-1])


def unipc(estimate: Estimator, walk: Walk) -> Sample:
    """Walk with UniPC of order 2, B(h) = exp(h) - 1, "bh2" (Zhao et al. 2023, arXiv 2302.04867, algorithms 5 and 6).

    The predictor is DPM-Solver++(2M). Each state is then corrected with the estimate made at it, which costs no
    evaluation. The last state needs no correction: only its estimate is returned.
    """
    timesteps, x = walk.timesteps, walk.beginning()
    levels = [walk.schedule.level(t) for t in timesteps]
    step_began = x
    estimates: list[Tensor] = []
    for i, (here, there) in enumerate(pairwise(levels)):
        # Three estimates are all that order 2 looks at.
        estimates = [*estimates[-2:], estimate(x, times(timesteps[i], x)).fused]
        if i:
            x = advance(step_began, corrected_data(estimates, levels[: i + 1]), levels[i - 1], here)
        data = extrapolated(estimates[-1], estimates[-2], levels[i - 1], here, there) if i else estimates[-1]
        step_began, x = x, advance(x, data, here, there)
    return closing(estimate, x, timesteps[-1])


def corrected_data(estimates: list[Tensor], levels: list[Level]) -> Tensor:
    """Return D of a step that is repeated with the estimate at its end (UniC, "bh2").

    Args:
        estimates: two estimates, at the step's begin and end, or three, with the one before them in front.
        levels: noise levels up to that of the last estimate.
    """
    begin, end = estimates[-2:]
    if len(estimates) == 2:
        return begin + (end - begin) / 2
    h = levels[-1].log_ratio - levels[-2].log_ratio
    ratio = (levels[-3].log_ratio - levels[-2].log_ratio) / h  # negative: the earlier estimate lies behind
    of_slope, of_end = _correction(h, ratio)
    return begin + (of_slope / ratio) * (estimates[-3] - begin) + of_end * (end - begin)


def _correction(h: float, ratio: float) -> tuple[float, float]:
    """Return rho of UniC-2: solves rho_1 r^(k-1) + rho_2 = k! h phi_(k+1)(-h) / B(-h) for k = 1, 2."""
    b = math.expm1(-h)
    first = b / -h - 1
    second = first / -h - 0.5
    right = (first / b, 2 * second / b)
    slope = (right[0] - right[1]) / (1 - ratio)
    return slope, right[0] - slope
