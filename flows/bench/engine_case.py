"""The scene of `unveil bench engine`: real clouds of the sample on a clear date, which is the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from de_model.bench.clock import clock
from flows.models.evaluation import index_on
from flows.models.evaluation_cases import Case, transplanted_cases
from flows.models.product_evaluation import fullest_window
from flows.stacks import SceneSet, stacks_of

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: The shipped weights have never seen this square; three days lie between its clouds and its truth.
_CELL, _CLOUDS, _TRUTH = "MGRS-33TWL", date(2023, 8, 18), date(2023, 8, 15)
#: Measurements of one thing, and the seconds after which no further one is made: a machine that others share varies by
#: a tenth from one minute to the next.
_ROUNDS, _ENOUGH_S = 3, 25.0


def engine_case() -> Case:
    """Return the case with all other dates as source, on the whole square."""
    (stack,) = stacks_of(SceneSet((_CELL,)))
    return next(transplanted_cases(stack, [index_on(stack, _CLOUDS)], [index_on(stack, _TRUTH)]))


def part_of(case: Case, side: int) -> Case:
    """Return the window of `side` pixels in which most is hidden."""
    at = fullest_window(case.where, side)
    return replace(case, stack=case.stack.window(*at), truth=case.truth[:, *at], where=case.where[at])


@dataclass(frozen=True, slots=True)
class Made:
    """A restored scene and what it took."""

    #: Reflectance `(band, y, x)`.
    image: FloatArray
    tiles: int
    redone: int = 0
    seconds: float = 0.0


def timed(work: Callable[[], Made], device: torch.device) -> Made:
    """Do the work up to three times, fewer where it takes long, and return its result with the median of the times."""
    times: list[float] = []
    while len(times) < _ROUNDS and sum(times) < _ENOUGH_S:
        began = clock(device)
        made = work()
        times.append(clock(device) - began)
    return replace(made, seconds=median(times))
