"""What a pixel of an acquisition shows, whatever mask said so."""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum, unique

import numpy as np
from numpy.typing import NDArray


@unique
class PixelClass(IntEnum):
    """Classes of a mask `(y, x)`, uint8."""

    NODATA = 0
    CLEAR = 1
    THIN_CLOUD = 2
    CLOUD = 3
    SHADOW = 4
    SNOW = 5
    #: Measured, but not the ground: saturated, defective, or of a class that nobody defined. Hidden rather than
    #: missing, so that other dates fill it.
    DEFECTIVE = 6


#: Classes whose pixels show the ground as it was: kept bit-identical, and allowed as donors.
OBSERVED = (PixelClass.CLEAR, PixelClass.SNOW)

#: Classes whose pixels are restored.
OBSCURED = (PixelClass.THIN_CLOUD, PixelClass.CLOUD, PixelClass.SHADOW, PixelClass.DEFECTIVE)


def among(classes: NDArray[np.uint8], kinds: Collection[int]) -> NDArray[np.bool_]:
    """True where an array holds one of some classes; any shape in, same shape out.

    A comparison for each class: for a handful of them several times faster than a look-up.
    """
    found = np.zeros(classes.shape, bool)
    for kind in kinds:
        found |= classes == kind
    return found


def is_observed(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """True where the ground was seen. Any shape in, same shape out."""
    return among(classes, OBSERVED)


def is_obscured(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """True where cloud, shadow or a defect hides the ground. Any shape in, same shape out."""
    return among(classes, OBSCURED)
