"""Measure restored against observed ground: residual cloud, colour, sharpness."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stac.product.layers import picked
from stac.quality.parts import EVERYTHING, FEWEST, Group, Part, distinct
from stac.reflectance import PRODUCT_SCALE

BoolArray = NDArray[np.bool_]


def _in_steps(values: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the known values, any order, in steps of 1e-4: sums of integers do not depend on the order of windows."""
    known = values[np.isfinite(values)]
    # Beyond 10 an interval says nothing more.
    np.minimum(known, 10, out=known)
    known /= np.float32(PRODUCT_SCALE)
    return np.rint(known, out=known).astype(np.intp)


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


class ColourTally:
    """Mean reflectance and NDVI of the rim of groups and of the observed ring around them.

    Only the rim counts: the ground far inside a large patch may be another kind of ground than that around it.
    """

    def __init__(self, bands: tuple[str, ...]) -> None:
        self.bands = bands
        self._ndvi = [bands.index(b) for b in ("red", "nir")] if {"red", "nir"} <= set(bands) else None
        self._sums: dict[tuple[str, str], NDArray[np.int64]] = defaultdict(lambda: np.zeros(1, np.int64))
        self._counts: dict[tuple[str, str], int] = defaultdict(int)

    def add(self, part: Part, groups: Mapping[str, Group]) -> None:
        """Count a part."""
        data = np.ascontiguousarray(part.data[:, *part.core])
        for group, names in distinct(groups):
            for kind, mask in (("rim", group.rim), ("ring", group.ring)):
                total, count = self._values(picked(data, mask)).sum(axis=1, dtype=np.int64), int(np.count_nonzero(mask))
                for name in names:
                    self._sums[name, kind] = self._sums[name, kind] + total
                    self._counts[name, kind] += count

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
        rim, ring = self._counts[name, "rim"], self._counts[name, "ring"]
        if min(rim, ring) < FEWEST:
            return None
        difference: NDArray[np.float64] = self._sums[name, "rim"] / rim - self._sums[name, "ring"] / ring
        return difference * PRODUCT_SCALE

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
        self._inside: dict[str, _Sum] = defaultdict(_Sum)
        self._ring: dict[str, _Sum] = defaultdict(_Sum)

    def add(self, part: Part, groups: Mapping[str, Group]) -> None:
        """Count a part."""
        near = tuple(slice(side.start - 1, side.stop + 1) for side in part.core)
        detail = laplacian(part.data[:, *near])
        calm = same_around(part.provenance[near])
        for group, names in distinct(groups):
            for sums, where in ((self._inside, group.inside), (self._ring, group.ring)):
                here = where & calm
                total = picked(detail, here).sum(axis=1, dtype=np.int64)
                for name in names:
                    sums[name].add(int(np.count_nonzero(here)), total)

    def ratio(self, name: str) -> float | None:
        """Return detail inside a group / detail around it, mean over bands; None where either is unknown."""
        inside, ring = self._inside[name], self._ring[name]
        if min(inside.count, ring.count) < FEWEST or not np.all(ring.total > 0):
            return None
        return float(np.mean((inside.total / inside.count) / (ring.total / ring.count)))


class _Sum:
    """A sum over pixels, by band, in integers."""

    def __init__(self) -> None:
        self.count, self.total = 0, np.zeros(1, np.int64)

    def add(self, count: int, total: NDArray[np.int64]) -> None:
        self.count, self.total = self.count + count, self.total + total


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
        """Count a part."""
        for group, names in distinct(groups):
            widths = _in_steps(picked(part.half_width, group.inside))
            weights = _in_steps(part.reference_weight[group.inside])
            counts = np.bincount(np.minimum(widths, _WIDEST), minlength=_WIDEST + 1)
            shares = np.bincount(np.minimum(weights, _WHOLE), minlength=_WHOLE + 1)
            for name in names:
                self._counts[name] += counts
                self._sums[name] += int(widths.sum())
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
