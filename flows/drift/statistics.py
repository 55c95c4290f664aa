"""Features of pixels, their histograms, statistics of a set, and those that are kept beside a model's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from numpy.typing import NDArray
from pydantic import TypeAdapter

from de_model.checkpoint import known_of
from de_model.errors import InvalidCheckpoint
from stac.io.files import write_bytes
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_observed
from stac.quality.figures import HALF_WIDTH_EDGES, WEIGHT_EDGES, QualityFigures
from stac.quality.parts import EVERYTHING
from stac.reflectance import PRODUCT_SCALE

#: Prefix of the features that hold one band each.
REFLECTANCE = "reflectance."
NO_BASELINE = "The model has no drift baseline; `unveil drift --baseline` makes one of its training cells."


@dataclass(frozen=True, slots=True)
class Histogram:
    """The distribution of one feature."""

    counts: tuple[int, ...]
    #: Sum of the values, in the feature's unit; 0 for classes.
    sum: float = 0.0

    @classmethod
    def of_steps(cls, feature: Feature, steps: NDArray[Any]) -> Histogram:
        """Return the distribution of whole steps of 1e-4, any shape: sums of integers depend on no order."""
        if not steps.size:
            return cls((0,) * feature.bins)
        values = steps.astype(np.int32).ravel()
        least = min(int(values.min()), 0)
        # How often each step occurs: from here on the number of pixels does not matter.
        every = np.bincount(values - least)
        step = np.arange(least, least + len(every))
        edges = np.rint(np.array(feature.edges) / PRODUCT_SCALE).astype(np.int64)
        bins = np.maximum(np.searchsorted(edges, step, side="right") - 1, 0)
        counts = np.bincount(bins, every, feature.bins).astype(np.int64)
        return cls(tuple(counts.tolist()), int(every @ step) * PRODUCT_SCALE)

    @classmethod
    def of_counts(cls, feature: Feature, counts: Sequence[int]) -> Histogram:
        """Return a distribution of which only the counts are known; its sum takes the middle of every bin."""
        numbers = tuple(int(n) for n in counts)
        return cls(numbers, float(np.array(numbers, np.float64) @ feature.centres) if feature.edges else 0.0)

    @classmethod
    def pooled(cls, parts: Iterable[Histogram]) -> Histogram:
        """Return all parts together; there must be one at least."""
        every = list(parts)
        counts = np.sum([part.counts for part in every], axis=0)
        return cls(tuple(counts.tolist()), sum(part.sum for part in every))

    @property
    def size(self) -> int:
        """Number of values."""
        return sum(self.counts)

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of the values in every bin `(bin,)`; zeros without any."""
        return np.array(self.counts, np.float64) / max(self.size, 1)

    @property
    def mean(self) -> float:
        """Mean of the values; 0 without any."""
        return self.sum / self.size if self.size else 0.0


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
    #: Class that may grow at the cost of the others: a sky that is clearer than in training does no harm.
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
        name=f"{REFLECTANCE}{band}",
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
        InvalidCheckpoint: an unknown feature.
    """
    if name.startswith(REFLECTANCE):
        return reflectance(name.removeprefix(REFLECTANCE))
    if name not in _OTHERS:
        raise InvalidCheckpoint(f"Feature {name} is unknown; statistics of a newer version cannot be compared.")
    return _OTHERS[name]


@dataclass(frozen=True, slots=True)
class UnitStatistics:
    """The distributions of a unit's features."""

    #: Id of the source item, or a part of it.
    name: str
    features: Mapping[str, Histogram]

    def __post_init__(self) -> None:
        """Check what was read from a file.

        Raises:
            InvalidCheckpoint: a feature is unknown, or has other bins than these counts.
        """
        for name, histogram in self.features.items():
            if len(histogram.counts) != feature_of(name).bins or min(histogram.counts) < 0:
                raise InvalidCheckpoint(f"The counts of {name} are not those of {feature_of(name).bins} bins.")


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
    """Return the elevation of the sun over the first scene that names it, degrees; None where none does."""
    for scene in scenes:
        properties = scene.properties
        if properties.get("view:sun_elevation") is not None:
            return float(properties["view:sun_elevation"])
        if properties.get("s2:mean_solar_zenith") is not None:
            return 90.0 - float(properties["s2:mean_solar_zenith"])
    return None


@dataclass(frozen=True, slots=True)
class Baseline:
    """The statistics of a training set, part by part: how far the parts lie apart says what is usual."""

    #: Of the weights that were trained on it.
    weights_sha256: str
    #: What it was made of, for people.
    made_of: str
    #: Names of the pairs that were trained on.
    pairs: tuple[str, ...]
    units: tuple[UnitStatistics, ...]

    @property
    def sha256(self) -> str:
        """Checksum of what the baseline says."""
        return hashlib.sha256(_JSON.dump_json(self)).hexdigest()

    def save(self, path: Path) -> None:
        """Write the baseline as JSON.

        Raises:
            DiskFull, NotWritable: it cannot be written.
        """
        write_bytes(path, _JSON.dump_json(self) + b"\n")


_JSON = TypeAdapter(Baseline)


def baseline_path(weights: Path) -> Path:
    """Return where the baseline of a weights file is kept: beside it."""
    return weights.with_suffix(".baseline.json")


def baseline_of(weights: Path) -> Baseline | None:
    """Return the baseline of a weights file, or of the shipped weights when it is a copy of them; None without one.

    Raises:
        InvalidCheckpoint: a baseline beside the weights cannot be read, or belongs to other weights.
    """
    return known_of(weights, baseline_path, load_baseline, "unveil drift --baseline")


def load_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        InvalidCheckpoint: the file is missing or no baseline.
    """
    try:
        found = _JSON.validate_json(path.read_bytes())
        if not found.units:
            raise ValueError("it holds no unit")
        return found
    except (OSError, ValueError, InvalidCheckpoint) as error:
        reason = str(error).splitlines()[-1] if str(error) else type(error).__name__
        raise InvalidCheckpoint(f"{path} is not a drift baseline ({reason}); run unveil drift --baseline.") from error
