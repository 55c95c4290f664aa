"""Is there still cloud in what was restored?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stac.quality.groups import EVERYTHING, FEWEST, BoolArray, Group
from stac.quality.parts import Part
from stac.reflectance import PRODUCT_SCALE

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
        """Count the core of a part."""
        if self._bands is None:
            return
        visible = part.data[self._bands, part.core[0], part.core[1]]
        hot, white = twice_hot(visible), is_bright_and_white(visible)
        for name, group in groups.items():
            inside = group.inside[part.core]
            self._bright[name] += _histogram(hot[inside & white])
            self._counts[name] += int(inside.sum())
        if EVERYTHING in groups:
            ring = groups[EVERYTHING].ring[part.core]
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
    total = visible.sum(axis=0)
    # |b - mean| = |3 b - total| / 3, in integers.
    deviation = np.abs(3 * visible - total).sum(axis=0)
    white: BoolArray = (total > 3 * _BRIGHTNESS / PRODUCT_SCALE) & (deviation < _WHITENESS * total)
    return white


def _histogram(values: NDArray[np.int32]) -> NDArray[np.int64]:
    bins = np.clip(values, _LOWEST, _HIGHEST) - _LOWEST
    return np.bincount(bins, minlength=_HIGHEST - _LOWEST + 1)
