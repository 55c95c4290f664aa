"""Landsat Collection 2 quality band (QA_PIXEL), the mask that comes with every Level-1 and Level-2 product.

Bits: Landsat 8-9 Collection 2 Level 2 Science Product Guide (LSDS-1619), table of QA_PIXEL; Landsat 4-7 (LSDS-1618) is
the same without cirrus. https://www.usgs.gov/landsat-missions/landsat-collection-2-quality-assessment-bands
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag, unique
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stac.errors import InvalidItem
from stac.masks.classes import PixelClass
from stac.masks.method import MaskInput, MaskMethod


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
    need their bit or high confidence. Cloud wins over shadow, shadow over cirrus, cirrus over snow. 0 is no value of
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


def _classify(layers: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    return classify_qa_pixel(layers[0])


QA_PIXEL = MaskMethod((MaskInput(("qa_pixel",), nodata=int(QaBit.FILL)),), frozenset(PixelClass), _classify)
