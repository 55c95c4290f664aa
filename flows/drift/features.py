"""What is watched: the figures of a work unit that a model may stop understanding when they move."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique

import numpy as np
from numpy.typing import NDArray

from flows.errors import InvalidBaseline
from stac.masks.classes import PixelClass
from stac.quality.figures import HALF_WIDTH_EDGES, WEIGHT_EDGES

#: Prefix of the features that hold one band each.
_REFLECTANCE = "reflectance."


@unique
class Kind(StrEnum):
    """How a feature is counted."""

    #: Many values per unit, in ordered bins.
    VALUES = "values"
    #: One value per unit, in ordered bins.
    SCALAR = "scalar"
    #: Pixels per class; classes have no order.
    CLASSES = "classes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One watched figure, its bins, and how far it may move before that means something."""

    name: str
    label: str
    kind: Kind
    #: Lower edges of the bins; what lies below the first is in the first, and the last has no end. Empty for classes.
    edges: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    #: Class that may grow at the cost of the others: a sky that is clearer than in training harms nobody.
    harmless: str = ""
    #: Unit of the shift; a share for classes.
    unit: str
    #: Least shift that is watched, and least that alarms: smaller ones do not matter, however sure they are.
    watch: float
    alarm: float

    @property
    def bins(self) -> int:
        """Number of bins or classes."""
        return len(self.edges) or len(self.classes)

    @property
    def centres(self) -> NDArray[np.float64]:
        """Middle of every bin; the last one counts as wide as the one before."""
        edges = np.array([*self.edges, 2 * self.edges[-1] - self.edges[-2]])
        return np.asarray((edges[:-1] + edges[1:]) / 2)


def _steps(first: float, step: float, count: int) -> tuple[float, ...]:
    return tuple(round(first + step * i, 4) for i in range(count))


#: Ground lies below 0.3 nearly everywhere; above, wider bins are enough.
_REFLECTANCE_EDGES = (*_steps(0.0, 0.01, 30), *_steps(0.3, 0.05, 8))

NDVI = Feature(
    name="ndvi", label="NDVI of clear ground", kind=Kind.VALUES, edges=_steps(-0.2, 0.04, 30), unit="",
    watch=0.1, alarm=0.2,
)  # fmt: skip
SKY = Feature(
    name="sky", label="Classes of the mask", kind=Kind.CLASSES,
    classes=tuple(kind.name.lower() for kind in PixelClass if kind is not PixelClass.NODATA), unit="share",
    harmless="clear", watch=0.25, alarm=0.5,
)  # fmt: skip
SUN = Feature(
    name="sun_elevation", label="Elevation of the sun", kind=Kind.SCALAR, edges=_steps(0.0, 2.5, 36), unit="°",
    watch=10.0, alarm=20.0,
)  # fmt: skip
WEIGHT = Feature(
    name="reference_weight", label="Share of the reference, W", kind=Kind.VALUES, edges=WEIGHT_EDGES, unit="",
    watch=0.1, alarm=0.2,
)  # fmt: skip
HALF_WIDTH = Feature(
    name="half_width", label="Half-width of the 90 % interval", kind=Kind.VALUES, edges=HALF_WIDTH_EDGES,
    unit="reflectance", watch=0.01, alarm=0.02,
)  # fmt: skip
RESIDUAL_CLOUD = Feature(
    name="residual_cloud", label="Restored pixels that look like cloud", kind=Kind.CLASSES,
    classes=("clean", "cloud"), harmless="clean", unit="share", watch=0.02, alarm=0.1,
)  # fmt: skip
_OTHERS = {f.name: f for f in (NDVI, SKY, SUN, WEIGHT, HALF_WIDTH, RESIDUAL_CLOUD)}


def reflectance(band: str) -> Feature:
    """Return the feature of one band's clear ground."""
    return Feature(
        name=f"{_REFLECTANCE}{band}",
        label=f"Reflectance of clear ground, {band}",
        kind=Kind.VALUES,
        edges=_REFLECTANCE_EDGES,
        unit="reflectance",
        watch=0.015,
        alarm=0.04,
    )


def feature_of(name: str) -> Feature:
    """Return a feature by its name in a document.

    Raises:
        InvalidBaseline: there is no such feature.
    """
    if name.startswith(_REFLECTANCE):
        return reflectance(name.removeprefix(_REFLECTANCE))
    if name not in _OTHERS:
        raise InvalidBaseline(f"Feature {name} is unknown; statistics of a newer version cannot be compared.")
    return _OTHERS[name]
