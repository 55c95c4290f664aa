"""The composites of other dates by name."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum, unique
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stac.composite.fusion import fit_fused
from stac.composite.normalisation import NormalisationFit
from stac.composite.temporal import CompositePrior, TemporalPrior, geomedian_clear, median_clear, nearest_clear
from stac.load.stack import Stack


@unique
class Prior(StrEnum):
    """What is used before the model."""

    #: Every date mapped to the target date, averaged by how well it agrees.
    FUSED = "fused"
    #: What the nearest date saw, as it saw it.
    NEAREST = "nearest"
    MEDIAN = "median"
    GEOMEDIAN = "geomedian"
    #: Nothing: the model restores every hidden pixel from the target date alone.
    NONE = "none"


class FittedPrior(Protocol):
    """A prior that has seen the whole cell."""

    @property
    def fits(self) -> tuple[NormalisationFit, ...]:
        """How dates were matched."""

    def apply(
        self, stack: Stack, target: int, *, exclude: Collection[int] = (), where: NDArray[np.bool_] | None = None
    ) -> TemporalPrior:
        """Return the prior of a window, at least at the pixels `where` `(y, x)`; at all when it is left out."""


def fit_prior(kind: Prior, overview: Stack, target: int, *, max_days: int | None = None) -> FittedPrior | None:
    """Learn a prior from a view of the whole cell, full or thinned; None for `Prior.NONE`."""
    match kind:
        case Prior.NONE:
            return None
        case Prior.FUSED:
            return fit_fused(overview, target, max_days=max_days)
        case _:
            return CompositePrior(kind.value, _COMPOSITES[kind], max_days)


_COMPOSITES = {
    Prior.NEAREST: nearest_clear,
    Prior.MEDIAN: median_clear,
    Prior.GEOMEDIAN: geomedian_clear,
}
