"""What makes a mask: SCL and QA_PIXEL, which come with a scene; s2cloudless and OmniCloudMask, which see its pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntFlag, unique
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stac.errors import InvalidItem, MissingExtra
from stac.masks.classes import PixelClass


@dataclass(frozen=True, slots=True)
class MaskInput:
    """A layer that a mask reads."""

    #: Names of the asset, the first that the item has is read.
    names: tuple[str, ...]
    #: Value outside the file; for reflectance the item's own nodata is used.
    nodata: int = 0
    #: Reflectance, so scale and offset are decided; else the values of a classification.
    reflectance: bool = False


@dataclass(frozen=True, slots=True)
class MaskMethod:
    """A kind of mask."""

    inputs: tuple[MaskInput, ...]
    #: What it can distinguish from clear ground. Of other classes it says nothing, also when it says clear.
    sees: frozenset[PixelClass]
    #: From the layers `(y, x)` in the order of `inputs` (archived values, or float32 reflectance with NaN where
    #: nodata) to `PixelClass` values `(y, x)`.
    classify: Callable[[Sequence[NDArray[Any]]], NDArray[np.uint8]]
    #: The layers must be reflectance at the top of the atmosphere (Level-1C).
    top_of_atmosphere: bool = False


#: Bands in the model's order, by the band's number and its common name.
BANDS = (
    ("B01", "coastal"),
    ("B02", "blue"),
    ("B04", "red"),
    ("B05", "rededge1"),
    ("B08", "nir"),
    ("B8A", "nir08"),
    ("B09", "nir09"),
    ("B10", "cirrus"),
    ("B11", "swir16"),
    ("B12", "swir22"),
)
#: Probability from which a pixel is cloud: the package's own.
THRESHOLD = 0.4
#: Pixels judged at once; bounds the memory of the model's input.
_CHUNK = 1_000_000


@lru_cache(maxsize=1)
def _detector() -> Any:
    try:
        from s2cloudless import S2PixelCloudDetector
    except ImportError as error:
        raise MissingExtra("Mask s2cloudless needs the package s2cloudless; install unveil-eo[masks].") from error
    return S2PixelCloudDetector(threshold=THRESHOLD, all_bands=False, average_over=None, dilation_size=None)


def cloud_probability(reflectance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probability of cloud `(y, x)`, 0..1, NaN where a band is.

    Args:
        reflectance: top of the atmosphere `(band, y, x)`, about 0-1, NaN where nodata; bands as in `BANDS`.

    Raises:
        MissingExtra: the package is not installed.
    """
    pixels = reflectance.reshape(len(BANDS), -1).T
    found = np.full(len(pixels), np.nan, np.float32)
    known = np.flatnonzero(np.isfinite(pixels).all(axis=1))
    for start in range(0, len(known), _CHUNK):
        part = known[start : start + _CHUNK]
        found[part] = _detector().get_cloud_probability_maps(pixels[part][None, None].astype(np.float64))[0, 0]
    return found.reshape(reflectance.shape[1:])


def _classify(layers: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    probability = cloud_probability(np.stack(layers))
    found = np.where(probability > THRESHOLD, PixelClass.CLOUD, PixelClass.CLEAR).astype(np.uint8)
    found[np.isnan(probability)] = PixelClass.NODATA
    return found


# An item of Level 2 may bring the bands of its Level-1C scene along under `toa-...`.
S2CLOUDLESS = MaskMethod(
    tuple(MaskInput((f"toa-{name}", name, number), reflectance=True) for number, name in BANDS),
    frozenset({PixelClass.CLOUD}),
    _classify,
    top_of_atmosphere=True,
)


#: The package's classes: clear, thick cloud, thin cloud, shadow.
_TABLE = np.array([PixelClass.CLEAR, PixelClass.CLOUD, PixelClass.THIN_CLOUD, PixelClass.SHADOW], np.uint8)


def _omnicloudmask_classify(layers: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    try:
        from omnicloudmask import predict_from_array
    except ImportError as error:
        raise MissingExtra(
            "Mask omnicloudmask needs the package omnicloudmask; install unveil-eo[omnicloudmask]."
        ) from error
    pixels = np.stack(layers).astype(np.float32)
    missing = ~np.isfinite(pixels).all(axis=0)
    # The package normalises by itself and takes 0 for nodata.
    found: NDArray[np.uint8] = _TABLE[
        np.asarray(predict_from_array(np.where(missing, np.float32(0), pixels)))[0].astype(np.intp)
    ]
    found[missing] = PixelClass.NODATA
    return found


OMNICLOUDMASK = MaskMethod(
    tuple(MaskInput((name,), reflectance=True) for name in ("red", "green", "nir")),
    frozenset({PixelClass.CLOUD, PixelClass.THIN_CLOUD, PixelClass.SHADOW}),
    _omnicloudmask_classify,
)


# "Unclassified" (7) counts as clear: over land it is mostly mixed or unusual ground, rarely cloud, and the
# dilation of the confident cloud classes takes the cloud edges among it. "Dark features" (2) are relief
# shadow and dark ground, which were observed. "Saturated or defective" (1) was measured but is not the ground's
# value: it is hidden, so that other dates fill it; as nodata it would stay a hole in the product.
_SCL_CLASSES = {
    0: PixelClass.NODATA,
    1: PixelClass.DEFECTIVE,
    2: PixelClass.CLEAR,
    3: PixelClass.SHADOW,
    4: PixelClass.CLEAR,
    5: PixelClass.CLEAR,
    6: PixelClass.CLEAR,
    7: PixelClass.CLEAR,
    8: PixelClass.CLOUD,
    9: PixelClass.CLOUD,
    10: PixelClass.THIN_CLOUD,
    11: PixelClass.SNOW,
}
# Values beyond the legend occur, a handful in a scene: what they show is not defined, so they are hidden too.
_CLASS_OF_SCL = np.full(256, PixelClass.DEFECTIVE, dtype=np.uint8)
_CLASS_OF_SCL[list(_SCL_CLASSES)] = [int(c) for c in _SCL_CLASSES.values()]
_LAST = max(_SCL_CLASSES)
#: A larger share of values beyond the legend is another raster.
_MOST_UNKNOWN = 0.5


def classify_scl(scl: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return `PixelClass` values for SCL values; any shape in, same shape out.

    Raises:
        InvalidItem: the array is not of 8-bit integers, or most of its values are in no legend.
    """
    if scl.dtype != np.uint8:
        raise InvalidItem(f"The scene classification is {scl.dtype}, expected uint8; name the right asset.")
    unknown = np.count_nonzero(scl > _LAST)
    if unknown > _MOST_UNKNOWN * np.count_nonzero(scl):
        raise InvalidItem(
            f"The scene classification holds values up to {scl.max()}, most of them above {_LAST}, the last class; "
            "name the right asset."
        )
    return _CLASS_OF_SCL.take(scl)


SCL = MaskMethod((MaskInput(("scl",)),), frozenset(PixelClass), lambda layers: classify_scl(layers[0]))


@unique
class QaBit(IntFlag):
    """Single bits."""

    FILL = 1 << 0
    DILATED_CLOUD = 1 << 1
    CIRRUS = 1 << 2
    CLOUD = 1 << 3
    CLOUD_SHADOW = 1 << 4
    SNOW = 1 << 5
    CLEAR = 1 << 6
    WATER = 1 << 7


#: First of two bits of confidence: 0 not set, 1 low, 2 medium, 3 high.
_CLOUD_CONFIDENCE, _SHADOW_CONFIDENCE, _SNOW_CONFIDENCE, _CIRRUS_CONFIDENCE = 8, 10, 12, 14
_MEDIUM, _HIGH = 2, 3


def classify_qa_pixel(qa: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Return `PixelClass` values for QA_PIXEL values; any shape in, same shape out.

    A cloud is one of medium or high confidence, or the margin that the USGS put around one. Shadow, snow and cirrus
    need their bit or high confidence. Cloud wins over shadow, shadow over cirrus, cirrus over snow. 0 is not a value of
    this band and counts as fill.

    Raises:
        InvalidItem: the array is not of 16-bit integers: Collection 1 and Fmask have other bits.
    """
    if qa.dtype != np.uint16:
        raise InvalidItem(f"The quality band is {qa.dtype}, expected uint16 (QA_PIXEL); name the right asset.")
    found = np.full(qa.shape, PixelClass.CLEAR, np.uint8)
    found[_is_set(qa, QaBit.SNOW) | (_confidence(qa, _SNOW_CONFIDENCE) == _HIGH)] = PixelClass.SNOW
    found[_is_set(qa, QaBit.CIRRUS) | (_confidence(qa, _CIRRUS_CONFIDENCE) == _HIGH)] = PixelClass.THIN_CLOUD
    found[_is_set(qa, QaBit.CLOUD_SHADOW) | (_confidence(qa, _SHADOW_CONFIDENCE) == _HIGH)] = PixelClass.SHADOW
    cloud = _is_set(qa, QaBit.CLOUD | QaBit.DILATED_CLOUD) | (_confidence(qa, _CLOUD_CONFIDENCE) >= _MEDIUM)
    found[cloud] = PixelClass.CLOUD
    found[_is_set(qa, QaBit.FILL) | (qa == 0)] = PixelClass.NODATA
    return found


def _is_set(qa: NDArray[np.uint16], bits: QaBit) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (qa & np.uint16(bits)) != 0
    return found


def _confidence(qa: NDArray[np.uint16], first: int) -> NDArray[np.uint16]:
    return (qa >> np.uint16(first)) & np.uint16(3)


QA_PIXEL = MaskMethod(
    (MaskInput(("qa_pixel",), nodata=int(QaBit.FILL)),),
    frozenset(PixelClass),
    lambda layers: classify_qa_pixel(layers[0]),
)
