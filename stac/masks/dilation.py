"""Growing clouds and shadows: their soft edges are contaminated further than any mask says."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from stac.errors import InvalidInput
from stac.masks.classes import PixelClass, among, is_observed

#: What is called by its worst kind where several reach, from mild to severe.
_HIDING = (PixelClass.DEFECTIVE, PixelClass.SHADOW, PixelClass.THIN_CLOUD, PixelClass.CLOUD)


def disk(radius_m: float, gsd_m: float) -> NDArray[np.bool_]:
    """Return a disk `(y, x)` of `radius_m` metres on a grid of `gsd_m` metres; at least its own centre."""
    reach = math.floor(radius_m / gsd_m + 1e-9)
    offset = np.arange(-reach, reach + 1) * gsd_m
    inside: NDArray[np.bool_] = np.hypot(offset[:, None], offset[None, :]) <= radius_m + 1e-6
    return inside


def grow(mask: NDArray[np.bool_], radius_m: float, gsd_m: float) -> NDArray[np.bool_]:
    """Return `mask` `(y, x)` grown by a disk of `radius_m` metres on a grid of `gsd_m` metres.

    A disk is a pile of rows, so the mask is widened by one pixel at a time and added to the result once for every row
    that is as wide: as many passes as the disk has rows, where a general dilation takes one for every pixel of it.
    """
    half_widths = (disk(radius_m, gsd_m).sum(axis=1) - 1) // 2
    reach = len(half_widths) // 2
    grown, wide = mask.copy(), mask.copy()
    for half_width in range(reach + 1):
        if half_width:
            wider = wide.copy()
            wider[:, 1:] |= wide[:, :-1]
            wider[:, :-1] |= wide[:, 1:]
            wide = wider
        for row in np.flatnonzero(half_widths == half_width) - reach:
            _add_moved(grown, wide, int(row))
    return grown


def _add_moved(grown: NDArray[np.bool_], mask: NDArray[np.bool_], rows: int) -> None:
    """Add `mask`, moved down by `rows`, to `grown` in place."""
    height = len(mask)
    if abs(rows) < height:
        grown[max(rows, 0) : height + min(rows, 0)] |= mask[max(-rows, 0) : height - max(rows, 0)]


def dilate(classes: NDArray[np.uint8], gsd_m: float, cloud_m: float, shadow_m: float) -> NDArray[np.uint8]:
    """Return the mask with cloud and shadow grown over observed ground.

    Only clear and snow pixels change; what was obscured stays what it was, nodata stays nodata. Cloud wins
    over shadow where both grow.

    Args:
        classes: `PixelClass` values `(y, x)`.
        gsd_m: pixel size, metres.
        cloud_m: reach of clouds (thin ones too), metres, 0 or more.
        shadow_m: reach of shadows, metres, 0 or more.

    Raises:
        InvalidInput: a distance is negative or the pixel size is not positive.
    """
    if gsd_m <= 0 or cloud_m < 0 or shadow_m < 0:
        raise InvalidInput(f"Dilation of {cloud_m} m / {shadow_m} m at {gsd_m} m: distances must not be negative.")
    grown, free = classes.copy(), is_observed(classes)
    for kinds, reach, becomes in (
        ((PixelClass.SHADOW,), shadow_m, PixelClass.SHADOW),
        ((PixelClass.CLOUD, PixelClass.THIN_CLOUD), cloud_m, PixelClass.CLOUD),
    ):
        near = grow(among(classes, kinds), reach, gsd_m)
        grown[near & free] = becomes
    return grown


def without_mixed(classes: NDArray[np.uint8], dilated: NDArray[np.uint8], reach: int) -> NDArray[np.uint8]:
    """Return a dilated mask in which no ground counts as observed that other than ground was mixed into.

    Args:
        classes: `PixelClass` values `(y, x)` before dilation.
        dilated: the same after it.
        reach: pixels that resampling reaches to every side.
    """
    grown, free = dilated.copy(), is_observed(dilated)
    around = np.ones((2 * reach + 1, 2 * reach + 1), bool)
    for kind in (PixelClass.NODATA, *_HIDING):
        grown[binary_dilation(classes == kind, around) & free] = kind
    return grown
