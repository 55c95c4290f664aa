"""Is a cloudy and a clear date a pair that a model may learn from? The same ground, little time, and no change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows.stacks import fullest_window
from stac.load.stack import Stack
from stac.masks.classes import is_observed

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Fewer pixels than this seen on both dates, and nothing can be checked: the pair is left out.
_FEWEST = 400
#: Side of the window in which dates are registered, pixels.
_WINDOW = 256
#: Shifts that are tried, pixels in each direction.
_REACH = 3


@dataclass(frozen=True, slots=True)
class PairLimits:
    """What a pair must keep, measured on the pixels that both dates saw."""

    #: Days between the dates.
    most_days: int = 15
    #: Shift of one date against the other at which they fit best, pixels.
    most_shift: int = 1
    #: Share of pixels whose mean absolute difference, after the match, exceeds `change`. Haze around clouds is change,
    #: too: up to 0.36 of the sample's cloudiest date.
    most_changed: float = 0.5
    #: Reflectance.
    change: float = 0.05


def objection(stack: Stack, cloudy: int, clear: int, ground: FloatArray, limits: PairLimits) -> str | None:
    """Return why a pair is left out, one sentence; None for a good pair.

    Args:
        stack: all dates of the cell.
        cloudy: index of one date.
        clear: index of the other.
        ground: reflectance `(band, y, x)` of the clear date, matched to the cloudy one, NaN where it saw nothing.
        limits: what it must keep.
    """
    name = f"{stack.item_ids[cloudy]} <- {stack.item_ids[clear]}"
    days = abs(int(stack.days[cloudy]) - int(stack.days[clear]))
    if days > limits.most_days:
        return f"{name}: {days} days apart, more than {limits.most_days}."
    both = is_observed(stack.classes[cloudy]) & np.isfinite(ground).all(axis=0)
    if both.sum() < _FEWEST:
        return f"{name}: only {int(both.sum())} pixels were seen on both dates."
    scene = stack.reflectance(cloudy)
    at = fullest_window(both, _WINDOW)
    shift = best_shift(scene[-1][at], ground[-1][at], both[at])
    if max(map(abs, shift)) > limits.most_shift:
        return f"{name}: shifted by {shift[0]} rows and {shift[1]} columns."
    changed = float((np.abs(scene - ground).mean(axis=0)[both] > limits.change).mean())
    if changed > limits.most_changed:
        return f"{name}: {changed:.0%} of the ground has changed, more than {limits.most_changed:.0%}."
    return None


def best_shift(one: FloatArray, other: FloatArray, where: BoolArray) -> tuple[int, int]:
    """Return by how many rows and columns `other` lies off `one`: the shift with the highest correlation.

    Pearson's correlation over the pixels that are seen in both after the shift (masked registration, Padfield 2012,
    https://doi.org/10.1109/TIP.2011.2181402, evaluated for small shifts only).

    Args:
        one: `(y, x)`.
        other: `(y, x)`.
        where: `(y, x)`, pixels seen in both.
    """
    a, b = np.where(where, one, np.nan), np.where(where, other, np.nan)
    found: dict[tuple[int, int], float] = {}
    for row in range(-_REACH, _REACH + 1):
        for column in range(-_REACH, _REACH + 1):
            found[row, column] = _correlation(a, np.roll(b, (-row, -column), axis=(0, 1)))
    # Of equals the smallest shift: flat ground says nothing.
    return max(found, key=lambda shift: (round(found[shift], 6), -abs(shift[0]) - abs(shift[1])))


def _correlation(a: FloatArray, b: FloatArray) -> float:
    inside = np.s_[_REACH:-_REACH, _REACH:-_REACH]
    one, other = a[inside], b[inside]
    both = np.isfinite(one) & np.isfinite(other)
    x, y = one[both].astype(np.float64), other[both].astype(np.float64)
    if len(x) < 2 or not (x.std() and y.std()):
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])
