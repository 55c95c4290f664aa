"""Is restored ground as sharp as the ground around it?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from stac.quality.groups import FEWEST, BoolArray, Group
from stac.quality.parts import Part


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
        """Count the core of a part; its margin must be 1 pixel or more."""
        detail, calm = laplacian(part.data), same_around(part.provenance)
        for name, group in groups.items():
            self._inside[name].add(detail, group.inside & calm, part)
            self._ring[name].add(detail, group.ring & calm, part)

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

    def add(self, values: NDArray[np.int32], where: BoolArray, part: Part) -> None:
        here = where[part.core]
        self.count += int(here.sum())
        self.total = self.total + values[:, part.core[0], part.core[1]][:, here].sum(axis=1, dtype=np.int64)


def laplacian(data: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return |4 c - n - s - w - e| `(band, y, x)` of `data`; 0 on its outermost pixels."""
    detail = np.zeros_like(data)
    around = data[:, :-2, 1:-1] + data[:, 2:, 1:-1] + data[:, 1:-1, :-2] + data[:, 1:-1, 2:]
    detail[:, 1:-1, 1:-1] = np.abs(4 * data[:, 1:-1, 1:-1] - around)
    return detail


def same_around(provenance: NDArray[np.uint8]) -> BoolArray:
    """Return where `(y, x)` a pixel and its four neighbours are of one class; False on the outermost pixels."""
    same, middle = np.zeros(provenance.shape, bool), provenance[1:-1, 1:-1]
    neighbours = (provenance[:-2, 1:-1], provenance[2:, 1:-1], provenance[1:-1, :-2], provenance[1:-1, 2:])
    same[1:-1, 1:-1] = np.logical_and.reduce([middle == other for other in neighbours])
    return same
