"""Can one see where kinds of pixels meet?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from stac.masks.classes import among
from stac.product.layers import RESTORED, Provenance
from stac.quality.parts import FEWEST, Part
from stac.reflectance import PRODUCT_SCALE

_KINDS = len(Provenance)


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
