"""Sentinel-2 scene classification (SCL), the mask that comes with every L2A product."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stac.errors import InvalidItem
from stac.masks.classes import PixelClass

# "Unclassified" (7) counts as clear: over land it is mostly mixed or unusual ground, rarely cloud, and the
# dilation of the confident cloud classes takes the cloud edges among it. "Dark features" (2) are relief
# shadow and dark ground, which were observed.
_SCL_CLASSES = {
    0: PixelClass.NODATA,
    1: PixelClass.NODATA,
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
# What later processing baselines add is treated as unseen: honest, and visible in the areas.
_TABLE = np.full(256, PixelClass.NODATA, dtype=np.uint8)
_TABLE[list(_SCL_CLASSES)] = [int(c) for c in _SCL_CLASSES.values()]


def classify_scl(scl: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return `PixelClass` values for SCL values; any shape in, same shape out.

    Raises:
        InvalidItem: the array is not of 8-bit integers.
    """
    if scl.dtype != np.uint8:
        raise InvalidItem(f"The scene classification is {scl.dtype}, expected uint8; name the right asset.")
    return _TABLE[scl]
