"""Growing clouds and shadows: their soft edges are contaminated further than any mask says."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from stac.errors import InvalidInput
from stac.masks.classes import OBSERVED, PixelClass


def disk(radius_m: float, gsd_m: float) -> NDArray[np.bool_]:
    """Return a disk `(y, x)` of `radius_m` metres on a grid of `gsd_m` metres; at least its own centre."""
    reach = math.floor(radius_m / gsd_m + 1e-9)
    offset = np.arange(-reach, reach + 1) * gsd_m
    inside: NDArray[np.bool_] = np.hypot(offset[:, None], offset[None, :]) <= radius_m + 1e-6
    return inside


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
    grown, free = classes.copy(), np.isin(classes, OBSERVED)
    for kinds, reach, becomes in (
        ((PixelClass.SHADOW,), shadow_m, PixelClass.SHADOW),
        ((PixelClass.CLOUD, PixelClass.THIN_CLOUD), cloud_m, PixelClass.CLOUD),
    ):
        near = binary_dilation(np.isin(classes, kinds), disk(reach, gsd_m))
        grown[near & free] = becomes
    return grown
