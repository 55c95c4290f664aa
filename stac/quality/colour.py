"""Has restored ground the colour of the ground around it?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from stac.quality.groups import FEWEST, Group
from stac.quality.parts import Part
from stac.reflectance import PRODUCT_SCALE


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
        """Count the core of a part."""
        values = self._values(part.data[:, part.core[0], part.core[1]])
        for name, group in groups.items():
            for kind, mask in (("rim", group.rim[part.core]), ("ring", group.ring[part.core])):
                self._sums[name, kind] = self._sums[name, kind] + values[:, mask].sum(axis=1, dtype=np.int64)
                self._counts[name, kind] += int(mask.sum())

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
