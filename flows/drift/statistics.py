"""The statistics of one work unit: of what went in, and of what the model made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pystac
from numpy.typing import NDArray

from flows.drift.features import HALF_WIDTH, NDVI, RESIDUAL_CLOUD, SKY, SUN, WEIGHT, feature_of, reflectance
from flows.drift.histogram import Histogram
from flows.errors import InvalidBaseline
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_observed
from stac.quality.figures import QualityFigures
from stac.quality.measures import EVERYTHING
from stac.reflectance import PRODUCT_SCALE


@dataclass(frozen=True, slots=True)
class UnitStatistics:
    """The distributions of a unit's features."""

    #: Id of the source item, or a part of it.
    name: str
    features: Mapping[str, Histogram]

    def document(self, *, summaries: bool = True) -> dict[str, Any]:
        """Return the statistics as JSON values, with what people read of them unless that is left out."""
        found: dict[str, Any] = {}
        for name, histogram in self.features.items():
            found[name] = histogram.document()
            if summaries:
                found[name] |= {"summary": histogram.summary(feature_of(name))}
        return {"name": self.name, "features": found}

    @classmethod
    def from_document(cls, document: Any) -> UnitStatistics:
        """Return the statistics of a document.

        Raises:
            InvalidBaseline: it holds none.
        """
        try:
            name, features = str(document["name"]), dict(document["features"])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidBaseline(f"The statistics of a unit cannot be read ({error}).") from error
        return cls(name, {key: Histogram.from_document(feature_of(key), value) for key, value in features.items()})


def input_statistics(stack: Stack, index: int, scenes: Iterable[pystac.Item]) -> dict[str, Histogram]:
    """Return what a date brings: clear ground by band, NDVI, classes of its mask, elevation of the sun.

    Args:
        stack: whole or thinned.
        index: of the date in it.
        scenes: the items of the date.
    """
    dn, classes = stack.dn[index], stack.classes[index]
    clear = is_observed(classes)
    found = {}
    if clear.any():
        for band, values in zip(stack.bands, dn, strict=True):
            feature = reflectance(band)
            found[feature.name] = Histogram.of_steps(feature, values[clear])
        if {"red", "nir"} <= set(stack.bands):
            red, nir = (dn[stack.bands.index(name)][clear].astype(np.int32) for name in ("red", "nir"))
            found[NDVI.name] = Histogram.of_steps(NDVI, ndvi_steps(red, nir))
    found[SKY.name] = Histogram.of_counts(SKY, [int((classes == PixelClass[n.upper()]).sum()) for n in SKY.classes])
    elevation = sun_elevation(scenes)
    if elevation is not None:
        found[SUN.name] = Histogram.of_steps(SUN, np.array([round(elevation / PRODUCT_SCALE)]))
    return found


def output_statistics(figures: QualityFigures) -> dict[str, Histogram]:
    """Return what the model made: share of the reference, width of the intervals, cloud that is left."""
    restored = figures.groups.get(EVERYTHING)
    if restored is None:
        return {}
    found = {HALF_WIDTH.name: Histogram.of_counts(HALF_WIDTH, restored.half_widths)}
    if any(restored.reference_weights):
        found[WEIGHT.name] = Histogram.of_counts(WEIGHT, restored.reference_weights)
    if restored.residual_cloud is not None:
        cloud = round(restored.residual_cloud * restored.pixels)
        found[RESIDUAL_CLOUD.name] = Histogram.of_counts(RESIDUAL_CLOUD, (restored.pixels - cloud, cloud))
    return found


def ndvi_steps(red: NDArray[np.int32], nir: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return (nir - red) / (nir + red) in steps of 1e-4, any shape; 0 where both are 0."""
    total = np.maximum(nir + red, 1)
    return np.asarray((nir - red) * 10_000 // total)


def sun_elevation(scenes: Iterable[pystac.Item]) -> float | None:
    """Return the elevation of the sun over the first scene that tells it, degrees; None where none does."""
    for scene in scenes:
        properties = scene.properties
        if properties.get("view:sun_elevation") is not None:
            return float(properties["view:sun_elevation"])
        if properties.get("s2:mean_solar_zenith") is not None:
            return 90.0 - float(properties["s2:mean_solar_zenith"])
    return None
