"""The composites of other dates by name."""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stac.composite.fusion import fit_fused
from stac.composite.normalisation import NormalisationFit
from stac.composite.temporal import SimpleComposite, TemporalComposite, geomedian_clear, median_clear, nearest_clear
from stac.load.stack import Stack


@unique
class CompositeMethod(StrEnum):
    """What is used before the model."""

    #: Every date mapped to the target date, averaged by how well it agrees.
    FUSED = "fused"
    #: What the nearest date saw, as it saw it.
    NEAREST = "nearest"
    MEDIAN = "median"
    GEOMEDIAN = "geomedian"
    #: Nothing: the model restores every hidden pixel from the target date alone.
    NONE = "none"


class FittedComposite(Protocol):
    """A composite that has seen the whole cell."""

    @property
    def fits(self) -> tuple[NormalisationFit, ...]:
        """How dates were matched."""

    def apply(self, stack: Stack, target: int, *, where: NDArray[np.bool_] | None = None) -> TemporalComposite:
        """Return the composite of a window, at least at the pixels `where` `(y, x)`; at all when it is left out."""


def fit_composite(
    kind: CompositeMethod, overview: Stack, target: int, *, max_days: int | None = None
) -> FittedComposite | None:
    """Learn a composite from a view of the whole cell, full or thinned; None for `CompositeMethod.NONE`."""
    match kind:
        case CompositeMethod.NONE:
            return None
        case CompositeMethod.FUSED:
            return fit_fused(overview, target, max_days=max_days)
        case _:
            return SimpleComposite(_COMPOSITES[kind], max_days)


_COMPOSITES = {
    CompositeMethod.NEAREST: nearest_clear,
    CompositeMethod.MEDIAN: median_clear,
    CompositeMethod.GEOMEDIAN: geomedian_clear,
}
