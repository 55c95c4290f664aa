"""Counts in fixed bins with the sums that give mean and spread: they add up over windows, units and runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.drift.features import Feature
from flows.errors import InvalidBaseline
from stac.reflectance import PRODUCT_SCALE

#: Quantiles of a summary, by name.
QUANTILES = {"p05": 0.05, "p50": 0.5, "p95": 0.95}


@dataclass(frozen=True, slots=True)
class Histogram:
    """The distribution of one feature."""

    counts: tuple[int, ...]
    #: Sum of the values and of their squares, in the feature's unit; 0 for classes.
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of_steps(cls, feature: Feature, steps: NDArray[Any]) -> Histogram:
        """Return the distribution of whole steps of 1e-4, any shape: sums of integers depend on no order."""
        if not steps.size:
            return cls((0,) * feature.bins)
        values = steps.astype(np.int32).ravel()
        least = min(int(values.min()), 0)
        # How often each step occurs: from here on the number of pixels does not matter.
        every = np.bincount(values - least)
        step = np.arange(least, least + len(every))
        edges = np.rint(np.array(feature.edges) / PRODUCT_SCALE).astype(np.int64)
        bins = np.maximum(np.searchsorted(edges, step, side="right") - 1, 0)
        counts = np.bincount(bins, every, feature.bins).astype(np.int64)
        total, squares = int(every @ step), int(every @ np.square(step))
        return cls(tuple(counts.tolist()), total * PRODUCT_SCALE, squares * PRODUCT_SCALE**2)

    @classmethod
    def of_counts(cls, feature: Feature, counts: Sequence[int]) -> Histogram:
        """Return a distribution of which only the counts are known; its sums take the middle of every bin."""
        numbers = tuple(int(n) for n in counts)
        if not feature.edges:
            return cls(numbers)
        weights, centres = np.array(numbers, np.float64), feature.centres
        return cls(numbers, float(weights @ centres), float(weights @ np.square(centres)))

    @classmethod
    def pooled(cls, parts: Iterable[Histogram]) -> Histogram:
        """Return all parts together; there must be one at least."""
        every = list(parts)
        counts = np.sum([part.counts for part in every], axis=0)
        total, squares = (sum(getattr(part, name) for part in every) for name in ("total", "squares"))
        return cls(tuple(counts.tolist()), total, squares)

    @property
    def size(self) -> int:
        """Number of values."""
        return sum(self.counts)

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of the values in every bin `(bin,)`; zeros without any."""
        return np.array(self.counts, np.float64) / max(self.size, 1)

    @property
    def mean(self) -> float:
        """Mean of the values; 0 without any."""
        return self.total / self.size if self.size else 0.0

    @property
    def std(self) -> float:
        """Standard deviation of the values; 0 without any."""
        return float(max(self.squares / self.size - self.mean**2, 0.0) ** 0.5) if self.size else 0.0

    def quantile(self, feature: Feature, share: float) -> float:
        """Return the value that `share` of the values do not exceed, evenly spread within bins; 0 without any."""
        if not self.size:
            return 0.0
        ends = np.append(np.array(feature.edges), 2 * feature.edges[-1] - feature.edges[-2])
        below = np.concatenate([[0.0], np.cumsum(self.shares)])
        upper = int(np.searchsorted(below, share))
        upper = min(max(upper, 1), feature.bins)
        inside = (share - below[upper - 1]) / max(below[upper] - below[upper - 1], 1e-12)
        return float(ends[upper - 1] + min(inside, 1.0) * (ends[upper] - ends[upper - 1]))

    def summary(self, feature: Feature) -> dict[str, float]:
        """Return what people read: mean, standard deviation and quantiles, or the share of every class."""
        if not feature.edges:
            return {name: round(float(s), 6) for name, s in zip(feature.classes, self.shares, strict=True)}
        found = {"mean": self.mean, "std": self.std}
        found |= {name: self.quantile(feature, share) for name, share in QUANTILES.items()}
        return {name: round(value, 6) for name, value in found.items()}

    def document(self) -> dict[str, Any]:
        """Return the histogram as JSON values."""
        return {"counts": list(self.counts), "sum": self.total, "squares": self.squares}

    @classmethod
    def from_document(cls, feature: Feature, document: Any) -> Histogram:
        """Return the histogram of a document.

        Raises:
            InvalidBaseline: it is none, or has other bins than the feature.
        """
        try:
            counts = tuple(int(n) for n in document["counts"])
            found = cls(counts, float(document["sum"]), float(document["squares"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidBaseline(f"The statistics of {feature.name} cannot be read ({error}).") from error
        if len(counts) != feature.bins or min(counts) < 0:
            raise InvalidBaseline(f"The statistics of {feature.name} have {len(counts)} bins, not {feature.bins}.")
        return found
