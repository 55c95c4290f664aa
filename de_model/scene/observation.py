"""A scene as the second edition sees it: what is known about every pixel, and the scene's own levels."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from de_model.errors import InvalidModelInput

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]
BoolArray = NDArray[np.bool_]

#: A robust deviation below this is taken for noise, reflectance.
FLOOR = 0.006
#: Clear pixels below this share, or this number, do not make a level.
_LEAST_SHARE, _LEAST_PIXELS = 0.01, 64
#: Pixels of an image that percentiles are taken from, at most.
_MOST_PIXELS = 250_000
#: Cloud is thin where its visible bands exceed the clear level by less than this, reflectance.
_THIN = 0.12
#: Standardised reflectance beyond this is cut off.
_LIMIT = 60.0
#: What a scene without clear ground and composite is taken for: land in blue, green, red, near infrared.
_USUAL_LEVEL = (0.075, 0.085, 0.075, 0.25)
_USUAL_DEVIATION = (0.02, 0.025, 0.035, 0.07)
#: The level is uncertain then: deviations count this many times as much.
_UNSURE = 1.5


class SceneClass(IntEnum):
    """What a pixel shows."""

    CLEAR = 0
    THIN = 1
    THICK = 2
    SHADOW = 3
    NODATA = 4


@dataclass(frozen=True, slots=True)
class Levels:
    """Level and deviation of a scene's clear ground, per band, reflectance."""

    median: tuple[float, ...]
    deviation: tuple[float, ...]
    #: Share of the pixels with data that are clear.
    clear_share: float

    def columns(self) -> tuple[FloatArray, FloatArray]:
        """Return both as `(band, 1, 1)`."""
        shape = (-1, 1, 1)
        return np.array(self.median, np.float32).reshape(shape), np.array(self.deviation, np.float32).reshape(shape)

    def standardised(self, image: FloatArray) -> FloatArray:
        """Return `(band, y, x)` with the clear ground at 0, in its deviations."""
        median, deviation = self.columns()
        return np.clip((image - median) / deviation, -_LIMIT, _LIMIT).astype(np.float32)

    def reflectance(self, z: FloatArray) -> FloatArray:
        """Undo `standardised`."""
        median, deviation = self.columns()
        return (z * deviation + median).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known about a scene or a window of it. Reflectance is `(band, y, x)`, NaN where there is none."""

    image: FloatArray
    #: `SceneClass` per pixel `(y, x)`.
    classes: ByteArray
    #: What other dates say, in the radiometry of this one.
    composite: FloatArray | None = None
    #: Standard deviation of the composite `(y, x)`, reflectance.
    spread: FloatArray | None = None
    #: The nearest date in the radiometry of this one, and its distance.
    date: FloatArray | None = None
    days: float = 0.0
    gsd_m: float = 10.0

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.classes.shape != self.image.shape[1:]:
            raise InvalidModelInput(
                f"Image {self.image.shape} and classes {self.classes.shape} do not fit; give (band, y, x) and (y, x)."
            )
        for name in ("composite", "date"):
            other = getattr(self, name)
            if other is not None and other.shape != self.image.shape:
                raise InvalidModelInput(f"The {name} has shape {other.shape}, the image {self.image.shape}.")


def finite(image: FloatArray) -> BoolArray:
    """Return the pixels whose bands all have a value `(y, x)`."""
    return np.asarray(np.isfinite(image).all(axis=0), bool)


def thinned(image: FloatArray, where: BoolArray) -> FloatArray | None:
    """Return some of the chosen pixels `(band, pixel)` whose bands all have a value; None where they are too few.

    Args:
        image: reflectance `(band, y, x)`.
        where: the chosen ones `(y, x)`.
    """
    step = max(1, int(np.sqrt(where.size / _MOST_PIXELS)))
    small = image[:, ::step, ::step]
    found = small[:, where[::step, ::step] & finite(small)]
    return found if found.shape[1] >= _LEAST_PIXELS else None


def levels_of(image: FloatArray, classes: ByteArray, composite: FloatArray | None = None) -> Levels:
    """Return level and deviation of the clear ground: of the image, else of the composite, else the usual ones.

    Args:
        image: reflectance `(band, y, x)`.
        classes: `SceneClass` per pixel `(y, x)`.
        composite: what other dates say.
    """
    data = classes != SceneClass.NODATA
    clear = (classes == SceneClass.CLEAR) & finite(image)
    share = float(clear.sum() / max(int(data.sum()), 1))
    stride = max(1, int(np.sqrt(clear.size / 16_000)))
    thinned = clear[::stride, ::stride]
    if share >= _LEAST_SHARE and thinned.sum() >= _LEAST_PIXELS:
        return _levels(image[:, ::stride, ::stride][:, thinned], share)
    if composite is not None:
        seen = finite(composite)[::stride, ::stride]
        if seen.sum() >= _LEAST_PIXELS:
            return _levels(composite[:, ::stride, ::stride][:, seen], share)
    return _usual(image, data, share)


def _levels(values: FloatArray, share: float) -> Levels:
    low, middle, high = np.percentile(values, [16, 50, 84], axis=1)
    deviation = np.maximum((high - low) / 2, FLOOR)
    return Levels(tuple(map(float, middle)), tuple(map(float, deviation)), share)


def _usual(image: FloatArray, data: BoolArray, share: float) -> Levels:
    """Return what land looks like, no brighter than the darkest of what is seen."""
    bands = len(image)
    level = np.resize(np.array(_USUAL_LEVEL), bands)
    if data.any():
        seen = image[:, data & finite(image)]
        if seen.size:
            level = np.minimum(level, np.percentile(seen, 5, axis=1))
    deviation = np.resize(np.array(_USUAL_DEVIATION), bands) * _UNSURE
    return Levels(tuple(map(float, level)), tuple(map(float, deviation)), share)


def thin_of(image: FloatArray, cloud: BoolArray, levels: Levels) -> BoolArray:
    """Return the pixels of `cloud` through which the ground is seen, judged by brightness.

    Args:
        image: reflectance `(band, y, x)`.
        cloud: `(y, x)`.
        levels: of the scene.
    """
    visible = slice(0, min(3, len(image)))
    median, _ = levels.columns()
    excess = np.nan_to_num(image[visible] - median[visible], nan=1.0).mean(axis=0)
    return cloud & (excess < _THIN)


def classes_of(
    image: FloatArray, cloud: BoolArray, levels: Levels | None = None, shadow: BoolArray | None = None
) -> ByteArray:
    """Return classes from one cloud mask: thin and thick by brightness, nodata where a band is not finite.

    Args:
        image: reflectance `(band, y, x)`.
        cloud: `(y, x)`.
        levels: of the whole scene; the image's own when left out.
        shadow: `(y, x)`, where it is known.
    """
    classes = np.where(cloud, SceneClass.THICK, SceneClass.CLEAR).astype(np.uint8)
    if shadow is not None:
        classes[shadow & ~cloud] = SceneClass.SHADOW
    classes[~finite(image)] = SceneClass.NODATA
    levels = levels or levels_of(image, classes)
    classes[thin_of(image, classes == SceneClass.THICK, levels)] = SceneClass.THIN
    return classes


def maps_of(seen: Observation, levels: Levels) -> tuple[FloatArray, FloatArray]:
    """Return what the networks are given: `Inputs.maps` `(map, y, x)` and `Inputs.numbers` `(number,)`.

    Args:
        seen: the scene or a window of it.
        levels: of the whole scene.
    """
    classes = seen.classes
    kinds = np.stack(
        [
            classes == SceneClass.CLEAR,
            classes == SceneClass.THIN,
            (classes == SceneClass.THICK) | (classes == SceneClass.NODATA),
            classes == SceneClass.SHADOW,
        ]
    ).astype(np.float32)
    image = _known(seen.image, finite(seen.image) & (kinds[2] == 0), levels)
    size = classes.shape
    composite, known = _optional(seen.composite, levels, size)
    date, dated = _optional(seen.date, levels, size)
    spread = np.zeros((1, *size), np.float32)
    if seen.spread is not None:
        spread[0] = np.where(known[0] > 0, np.clip(np.nan_to_num(seen.spread, nan=0.0) / 0.01, 0, 10), 0)
    maps = np.concatenate([image, kinds, composite, known, spread, date, dated])
    return maps, numbers_of(levels, seen.gsd_m, seen.days if seen.date is not None else 0.0)


def numbers_of(levels: Levels, gsd_m: float, days: float) -> FloatArray:
    """Return the numbers of a scene, all of the order of 1."""
    median, deviation = np.array(levels.median), np.array(levels.deviation)
    return np.concatenate(
        [
            4 * np.sqrt(np.clip(median, 0, 1)) - 1.2,
            np.log(deviation / 0.03),
            [np.log10(gsd_m / 10), np.log1p(abs(days)) / 3, 2 * levels.clear_share - 1],
        ]
    ).astype(np.float32)


def _known(image: FloatArray, where: BoolArray, levels: Levels) -> FloatArray:
    return np.where(where, levels.standardised(np.nan_to_num(image)), 0).astype(np.float32)


def _optional(image: FloatArray | None, levels: Levels, size: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
    bands = len(levels.median)
    if image is None:
        return np.zeros((bands, *size), np.float32), np.zeros((1, *size), np.float32)
    where = finite(image)
    return _known(image, where, levels), where[None].astype(np.float32)
