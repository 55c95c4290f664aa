"""Sentinel-2 scene classification (SCL), the mask that comes with every L2A product.

Classes: Sentinel-2 Products Specification, https://sentiwiki.copernicus.eu/web/s2-processing (L2A algorithms).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stac.errors import InvalidItem
from stac.masks.classes import PixelClass
from stac.masks.method import MaskInput, MaskMethod

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
# Values beyond the legend occur, a handful in a scene: nobody says what they show, so they are hidden too.
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
    unknown = (scl > _LAST).sum()
    if unknown > _MOST_UNKNOWN * (scl > 0).sum():
        raise InvalidItem(
            f"The scene classification holds values up to {scl.max()}, most of them above {_LAST}, the last class; "
            "name the right asset."
        )
    return _TABLE[scl]


def _classify(layers: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    return classify_scl(layers[0])


SCL = MaskMethod((MaskInput(("scl",)),), frozenset(PixelClass), _classify)
