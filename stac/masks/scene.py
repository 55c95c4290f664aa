"""Masks that come with a scene: SCL and QA_PIXEL."""

from __future__ import annotations

from enum import IntFlag, unique

import numpy as np
from numpy.typing import NDArray

from stac.errors import InvalidItem
from stac.masks.classes import PixelClass
from stac.masks.learned import MaskInput, MaskMethod

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
_TABLE = np.full(256, PixelClass.DEFECTIVE, dtype=np.uint8)
_TABLE[list(_SCL_CLASSES)] = [int(c) for c in _SCL_CLASSES.values()]
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
    return _TABLE.take(scl)


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
