"""How wide are the 90 % intervals, and how much does the reference weigh?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from stac.quality.measures import Group, Part, distinct
from stac.reflectance import PRODUCT_SCALE

#: Intervals wider than this (steps of 1e-4) share one bin.
_WIDEST = 10_000
#: The whole as a share of the reference, steps of 1e-4.
_WHOLE = 10_000


class IntervalTally:
    """Histograms of the half-width of intervals, all bands together, by group."""

    def __init__(self) -> None:
        self._counts: dict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(_WIDEST + 1, np.int64))
        self._sums: dict[str, int] = defaultdict(int)
        self._weights: dict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(_WHOLE + 1, np.int64))

    def add(self, part: Part, groups: Mapping[str, Group]) -> None:
        """Count the core of a part."""
        rows, columns = part.core
        for group, names in distinct(groups):
            inside = group.inside[part.core]
            widths = part.half_width[:, rows, columns][:, inside]
            widths, weights = widths[widths >= 0], part.reference_weight[part.core][inside]
            counts = np.bincount(np.minimum(widths, _WIDEST), minlength=_WIDEST + 1)
            known = weights[weights >= 0]
            shares = np.bincount(np.minimum(known, _WHOLE), minlength=_WHOLE + 1)
            for name in names:
                self._counts[name] += counts
                self._sums[name] += int(widths.sum(dtype=np.int64))
                self._weights[name] += shares

    def mean(self, name: str) -> float | None:
        """Return the mean half-width, reflectance; None where there is none."""
        count = int(self._counts[name].sum())
        return self._sums[name] / count * PRODUCT_SCALE if count else None

    def quantile(self, name: str, share: float) -> float | None:
        """Return the half-width that `share` of the values do not exceed, reflectance; None where there is none."""
        counts = self._counts[name]
        count = int(counts.sum())
        if not count:
            return None
        return float(np.searchsorted(np.cumsum(counts), np.ceil(share * count))) * PRODUCT_SCALE

    def histogram(self, name: str, edges: NDArray[np.int64]) -> tuple[int, ...]:
        """Return how many values lie from one edge (steps of 1e-4) up to the next; the last bin has no end."""
        return tuple(int(n) for n in np.add.reduceat(self._counts[name], edges))

    def reference_weight(self, name: str) -> float | None:
        """Return the mean share of the reference; None where the model did not run."""
        counts = self._weights[name]
        count = int(counts.sum())
        return int(counts @ np.arange(_WHOLE + 1)) / count * PRODUCT_SCALE if count else None

    def weight_histogram(self, name: str, edges: NDArray[np.int64]) -> tuple[int, ...]:
        """Return how many shares of the reference lie from one edge (steps of 1e-4) up to the next."""
        return tuple(int(n) for n in np.add.reduceat(self._weights[name], edges))
