"""Measure restored against observed ground: residual cloud, colour, sharpness, seams."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stac.masks.classes import among
from stac.product.layers import RESTORED, Provenance, picked
from stac.quality.parts import EVERYTHING, FEWEST, Group, Part, distinct
from stac.reflectance import PRODUCT_SCALE

BoolArray = NDArray[np.bool_]


#: Spectral bands that the test needs.
NEEDED = ("blue", "green", "red")
#: Whiteness of a cloud stays below this (Fmask, Zhu and Woodcock 2012, equation 2).
_WHITENESS = 0.7
#: A cloud's mean visible reflectance, lower than that of thin cloud over forest in the sample.
_BRIGHTNESS = 0.12
#: HOT of a cloud above that of clear ground. Fmask takes 0.08 at the top of the atmosphere (equation 3), whose blue
#: holds the path radiance; after correction clear ground lies near 0.02, and 0.05 above it flags 0.2 to 0.5 % of the
#: clear pixels of the sample's clear dates.
_HOT_STEP, _HOT_GROUND = 0.05, 0.02
#: 2 HOT in steps of 1e-4 is a whole number; it is counted in bins between these.
_LOWEST, _HIGHEST = -20_000, 40_000
#: Beyond this an interval says nothing more, steps of 1e-4.
_WIDEST = 100_000
_KINDS = len(Provenance)


@dataclass(frozen=True, slots=True)
class ResidualCloud:
    """What a cloud test says about the result."""

    #: Share of the restored pixels that look like cloud, by group.
    shares: Mapping[str, float]
    #: Share of observed surroundings that look like it: bright ground, or clouds that the mask missed.
    observed_share: float | None
    #: HOT from which a bright white pixel looks like cloud, reflectance.
    threshold: float


class CloudTally:
    """A cloud test, run on the result.

    A pixel looks like cloud when it is bright (mean visible reflectance above 0.12), white (sum of the absolute
    deviations of blue, green and red from their mean, divided by it, below 0.7) and hazy: its haze-optimised
    transform HOT = blue - red / 2 lies 0.05 above the median of the observed surroundings. Whiteness and HOT are
    those of Fmask (Zhu and Woodcock 2012, https://doi.org/10.1016/j.rse.2011.10.028, equations 2 and 3; HOT from
    Zhang et al. 2002), the offset is measured against surroundings because Fmask's is for the top of the atmosphere.
    """

    def __init__(self, bands: tuple[str, ...]) -> None:
        self._bands = [bands.index(b) for b in NEEDED] if set(NEEDED) <= set(bands) else None
        size = _HIGHEST - _LOWEST + 1
        self._bright: dict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(size, np.int64))
        self._counts: dict[str, int] = defaultdict(int)
        self._ring, self._bright_ring = np.zeros(size, np.int64), np.zeros(size, np.int64)

    def add(self, part: Part, groups: Mapping[str, Group]) -> None:
        """Count a part."""
        if self._bands is None:
            return
        visible = part.data[self._bands, part.core[0], part.core[1]]
        hot, white = twice_hot(visible), is_bright_and_white(visible)
        for group, names in distinct(groups):
            bright, count = _histogram(hot[group.inside & white]), int(np.count_nonzero(group.inside))
            for name in names:
                self._bright[name] += bright
                self._counts[name] += count
        if EVERYTHING in groups:
            ring = groups[EVERYTHING].ring
            self._ring += _histogram(hot[ring])
            self._bright_ring += _histogram(hot[ring & white])

    def result(self) -> ResidualCloud | None:
        """Return what was found; None without blue, green and red, or without restored pixels."""
        if self._bands is None or not self._counts:
            return None
        observed = int(self._ring.sum())
        ground = self._median() if observed >= FEWEST else _HOT_GROUND
        first = round(2 * (ground + _HOT_STEP) / PRODUCT_SCALE) - _LOWEST
        shares = {name: int(self._bright[name][first:].sum()) / count for name, count in self._counts.items()}
        share = int(self._bright_ring[first:].sum()) / observed if observed >= FEWEST else None
        return ResidualCloud(shares, share, ground + _HOT_STEP)

    def _median(self) -> float:
        """Return the median HOT of the surroundings, reflectance."""
        middle = np.searchsorted(np.cumsum(self._ring), (int(self._ring.sum()) + 1) // 2)
        return float(int(middle) + _LOWEST) * PRODUCT_SCALE / 2


def twice_hot(visible: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return 2 blue - red `(y, x)` of blue, green and red `(3, y, x)`, in the same unit."""
    hot: NDArray[np.int32] = 2 * visible[0] - visible[2]
    return hot


def is_bright_and_white(visible: NDArray[np.int32]) -> BoolArray:
    """Return where `(y, x)` blue, green and red `(3, y, x)`, reflectance / 1e-4, are bright and of no colour."""
    total = visible.sum(axis=0, dtype=np.int32)
    # |b - mean| = |3 b - total| / 3, in integers.
    deviation = np.zeros_like(total)
    for band in visible:
        deviation += np.abs(3 * band - total)
    white: BoolArray = (total > 3 * _BRIGHTNESS / PRODUCT_SCALE) & (deviation < _WHITENESS * total)
    return white


def _histogram(values: NDArray[np.int32]) -> NDArray[np.int64]:
    bins = np.clip(values, _LOWEST, _HIGHEST) - _LOWEST
    return np.bincount(bins, minlength=_HIGHEST - _LOWEST + 1)


class _Sides:
    """Means by band over pixels of groups and over the observed ring around each, summed up in integers."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, str], NDArray[np.int64]] = defaultdict(lambda: np.zeros(1, np.int64))
        self._counts: dict[tuple[str, str], int] = defaultdict(int)

    def add(self, names: Iterable[str], side: str, values: NDArray[np.int32]) -> None:
        """Add values `(band, pixel)` to the side `inside` or `ring` of some groups."""
        total = values.sum(axis=1, dtype=np.int64)
        for name in names:
            self._totals[name, side] = self._totals[name, side] + total
            self._counts[name, side] += values.shape[1]

    def means(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Return the means `(band,)` inside a group and around it; None where there are too few pixels of either."""
        inside, ring = self._counts[name, "inside"], self._counts[name, "ring"]
        if min(inside, ring) < FEWEST:
            return None
        return self._totals[name, "inside"] / inside, self._totals[name, "ring"] / ring


class ColourTally:
    """Mean reflectance and NDVI of the rim of groups and of the observed ring around them.

    Only the rim counts: the ground far inside a large patch may be another kind of ground than that around it.
    """

    def __init__(self, bands: tuple[str, ...]) -> None:
        self.bands, self._sides = bands, _Sides()
        self._ndvi = [bands.index(b) for b in ("red", "nir")] if {"red", "nir"} <= set(bands) else None

    def add(self, part: Part, groups: Mapping[str, Group]) -> None:
        """Count a part."""
        data = np.ascontiguousarray(part.data[:, *part.core])
        for group, names in distinct(groups):
            for side, mask in (("inside", group.rim), ("ring", group.ring)):
                self._sides.add(names, side, self._values(picked(data, mask)))

    def shift(self, name: str) -> dict[str, float] | None:
        """Return restored minus observed by band, reflectance; None where either is unknown."""
        difference = self._difference(name)
        if difference is None:
            return None
        return {band: float(value) for band, value in zip(self.bands, difference, strict=False)}

    def ndvi_shift(self, name: str) -> float | None:
        """Return mean NDVI restored minus observed; None without red and near infrared, or where either is unknown."""
        difference = self._difference(name)
        return float(difference[-1]) if difference is not None and self._ndvi else None

    def _difference(self, name: str) -> NDArray[np.float64] | None:
        means = self._sides.means(name)
        return None if means is None else (means[0] - means[1]) * PRODUCT_SCALE

    def _values(self, data: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the bands, and NDVI / 1e-4 after them where it is defined."""
        if self._ndvi is None:
            return data
        red, nir = data[self._ndvi]
        ndvi = np.rint((nir - red) / np.maximum(nir + red, 1) / PRODUCT_SCALE).astype(np.int32)
        return np.concatenate([data, ndvi[None]])


class SharpnessTally:
    """Mean fine detail of groups and of their surroundings.

    Detail is the absolute discrete Laplacian (4 neighbours): it vanishes on flat and evenly sloping ground, blur
    lowers it, noise and invented texture raise it. Only pixels whose four neighbours are of the same kind count, so
    that no border between kinds is mistaken for detail.
    """

    def __init__(self) -> None:
        self._sides = _Sides()

    def add(self, part: Part, groups: Mapping[str, Group]) -> None:
        """Count a part."""
        near = tuple(slice(side.start - 1, side.stop + 1) for side in part.core)
        detail = laplacian(part.data[:, *near])
        calm = same_around(part.provenance[near])
        for group, names in distinct(groups):
            for side, where in (("inside", group.inside), ("ring", group.ring)):
                self._sides.add(names, side, picked(detail, where & calm))

    def ratio(self, name: str) -> float | None:
        """Return detail inside a group / detail around it, mean over bands; None where either is unknown."""
        means = self._sides.means(name)
        return None if means is None or not np.all(means[1] > 0) else float(np.mean(means[0] / means[1]))


def laplacian(data: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return |4 c - n - s - w - e| `(band, y, x)` of all pixels of `data` but the outermost."""
    detail = data[:, 1:-1, 1:-1] * 4
    for neighbour in _neighbours(data):
        detail -= neighbour
    return np.abs(detail, out=detail)


def same_around(provenance: NDArray[np.uint8]) -> BoolArray:
    """Return where `(y, x)` a pixel and its four neighbours are of one class, for all pixels but the outermost."""
    middle = provenance[1:-1, 1:-1]
    same: BoolArray = np.logical_and.reduce([middle == other for other in _neighbours(provenance)])
    return same


def _neighbours(pixels: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Return the pixels above, below, before and after all but the outermost ones `(..., y, x)`."""
    return pixels[..., :-2, 1:-1], pixels[..., 2:, 1:-1], pixels[..., 1:-1, :-2], pixels[..., 1:-1, 2:]


def _counted(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return how many of the known values, any order, are of each step of 1e-4, up to `_WIDEST`."""
    known = values[np.isfinite(values)]
    known /= np.float32(PRODUCT_SCALE)
    np.minimum(known, _WIDEST, out=known)
    return np.bincount(np.rint(known, out=known).astype(np.intp), minlength=_WIDEST + 1)


@dataclass(slots=True)
class Histogram:
    """Counts of values by steps of 1e-4: sums of integers do not depend on the order of windows."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_WIDEST + 1, np.int64))

    def mean(self) -> float | None:
        """Return the mean; None without values."""
        count = int(self.counts.sum())
        return int(self.counts @ np.arange(_WIDEST + 1)) / count * PRODUCT_SCALE if count else None

    def quantile(self, share: float) -> float | None:
        """Return what `share` of the values do not exceed; None without values."""
        count = int(self.counts.sum())
        if not count:
            return None
        return float(np.searchsorted(np.cumsum(self.counts), np.ceil(share * count))) * PRODUCT_SCALE

    def binned(self, edges: NDArray[np.int64]) -> tuple[int, ...]:
        """Return how many values lie from one edge (steps of 1e-4) up to the next; the last bin has no end."""
        return tuple(int(n) for n in np.add.reduceat(self.counts, edges))


class IntervalTally:
    """Half-widths of intervals, all bands together, and shares of the reference where the model ran, by group."""

    def __init__(self) -> None:
        self.half_widths: dict[str, Histogram] = defaultdict(Histogram)
        self.weights: dict[str, Histogram] = defaultdict(Histogram)

    def add(self, part: Part, groups: Mapping[str, Group]) -> None:
        """Count a part."""
        for group, names in distinct(groups):
            widths = _counted(picked(part.half_width, group.inside))
            weights = _counted(part.reference_weight[group.inside])
            for name in names:
                self.half_widths[name].counts += widths
                self.weights[name].counts += weights


@dataclass(frozen=True, slots=True)
class Seam:
    """The border between two classes, `first` < `second`."""

    first: Provenance
    second: Provenance
    #: Pairs of neighbouring pixels across the border.
    pairs: int
    #: Mean absolute step across it, and between the next pixels on either side, reflectance, mean over bands.
    step: float
    inner_step: float | None
    #: `step` / `inner_step`; 1 for a border that cannot be seen. None for short borders.
    ratio: float | None


class SeamTally:
    """Steps across borders between classes, and those one pixel further in on either side.

    Both steps of a comparison lie on one line of pixels within two pixels of each other, so the ground is the same.
    """

    def __init__(self) -> None:
        self._sums = np.zeros((4, _KINDS * _KINDS), np.int64)

    def add(self, part: Part) -> None:
        """Count a part."""
        seen = among(part.provenance, (Provenance.OBSERVED, *RESTORED))
        for step in ((0, 1), (1, 0)):
            self._add_along(part, seen, step)

    def seams(self, bands: int) -> tuple[Seam, ...]:
        """Return every border that was found, by its classes."""
        return tuple(self._seam(int(kind), bands) for kind in np.flatnonzero(self._sums[1]))

    def ratio(self) -> float | None:
        """Return steps across all borders / steps beside them, both per pair; None without borders of some length."""
        return _ratio(self._sums.sum(axis=1))

    def _seam(self, kind: int, bands: int) -> Seam:
        across, pairs, inner, inner_pairs = self._sums[:, kind]
        scale = PRODUCT_SCALE / bands
        return Seam(
            Provenance(kind // _KINDS),
            Provenance(kind % _KINDS),
            int(pairs),
            float(across / pairs * scale),
            float(inner / inner_pairs * scale) if inner_pairs else None,
            _ratio(self._sums[:, kind]),
        )

    def _add_along(self, part: Part, seen: NDArray[np.bool_], step: tuple[int, int]) -> None:
        """Count the borders that one meets in steps of rows and columns: a pair is of the part with its first pixel.

        Args:
            part: data and provenance of a window.
            seen: pixels `(y, x)` that show the ground.
            step: from the first pixel of a pair to the second, (0, 1) or (1, 0).
        """
        here = part.core
        there = tuple(slice(side.start + by, side.stop + by) for side, by in zip(here, step, strict=True))
        kinds, width = part.provenance.ravel(), part.provenance.shape[1]
        borders = (part.provenance[here] != part.provenance[there]) & seen[here] & seen[there]
        row, column = np.nonzero(borders)
        at, by = (row + here[0].start) * width + column + here[1].start, step[0] * width + step[1]
        # The pixel before the first of a pair, both of the pair, and the one after it.
        places = [at + number * by for number in (-1, 0, 1, 2)]
        before, first, second, after = (kinds.take(place).astype(np.int64) for place in places)
        values = [part.data.reshape(len(part.data), -1).take(place, axis=1) for place in places]
        inner, across, beyond = (np.abs(b - a).sum(axis=0, dtype=np.int32) for a, b in pairwise(values))
        kind = np.minimum(first, second) * _KINDS + np.maximum(first, second)
        for index, where, steps in ((0, ..., across), (2, before == first, inner), (2, after == second, beyond)):
            # Sums of integers far below 2^53 are exact in float64.
            self._sums[index] += np.bincount(kind[where], steps[where], self._sums.shape[1]).astype(np.int64)
            self._sums[index + 1] += np.bincount(kind[where], minlength=self._sums.shape[1])


def _ratio(sums: NDArray[np.int64]) -> float | None:
    across, pairs, inner, inner_pairs = (int(v) for v in sums)
    if min(pairs, inner_pairs) < FEWEST or not inner:
        return None
    return (across / pairs) / (inner / inner_pairs)
