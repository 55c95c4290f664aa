"""How far apart two windows of one training set come to lie by chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from flows.drift.features import Kind
from flows.drift.histogram import Histogram
from flows.drift.limits import DriftLimits

Array = NDArray[np.float64]
Distance = Callable[[Array, Array], Array]


def usual_distance(
    parts: Sequence[Histogram], units: int, values: int, kind: Kind, distance: Distance, limits: DriftLimits
) -> float:
    """Return the distance that `confidence` of the windows drawn from a baseline do not exceed.

    A bootstrap over parts (Efron 1979; parts rather than pixels, because pixels of one date are alike): both the
    window and what it is compared with are drawn anew with replacement. The window is then thinned to the number
    of independent values that are judged. The same arguments give the same number.

    Args:
        parts: the distributions of the baseline's parts.
        units: parts in a window.
        values: values in the window that is judged.
        kind: of the feature; single values are not thinned.
        distance: of shares `(..., bin)`.
        limits: how many draws, and how many pixels count as one value.
    """
    rng = np.random.default_rng(0)
    counts = np.array([part.counts for part in parts], np.float64)
    even = np.full(len(parts), 1 / len(parts))
    window = _shares(rng.multinomial(units, even, limits.draws) @ counts)
    reference = _shares(rng.multinomial(len(parts), even, limits.draws) @ counts)
    if kind is not Kind.SCALAR:
        independent = max(values // limits.correlation, 1)
        window = rng.multinomial(independent, window) / independent
    return float(np.quantile(distance(window, reference), limits.confidence))


def _shares(counts: Array) -> Array:
    return np.asarray(counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1))
