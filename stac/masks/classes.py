"""What a pixel of an acquisition shows, whatever mask said so."""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum, unique

import numpy as np
from numpy.typing import NDArray

#: The edges of bands and masks differ by so much at the edge of a swath, pixels.
RIM = 2


@unique
class PixelClass(IntEnum):
    """Classes of a mask `(y, x)`, uint8."""

    NODATA = 0
    CLEAR = 1
    THIN_CLOUD = 2
    CLOUD = 3
    SHADOW = 4
    SNOW = 5
    #: Measured, but not the ground: saturated, defective, or of an undefined class. Hidden rather than
    #: missing, so that other dates fill it.
    DEFECTIVE = 6


#: Classes whose pixels show the ground as it was: kept bit-identical, and allowed as sources.
OBSERVED = (PixelClass.CLEAR, PixelClass.SNOW)

#: Classes whose pixels are restored, from mild to severe: where several meet, the worst is the pixel's.
HIDDEN = (PixelClass.DEFECTIVE, PixelClass.SHADOW, PixelClass.THIN_CLOUD, PixelClass.CLOUD)


def among(classes: NDArray[np.uint8], kinds: Collection[int]) -> NDArray[np.bool_]:
    """True where an array holds one of some classes; any shape in, same shape out.

    A comparison for each class: for a handful of them several times faster than a look-up. NumPy compares bytes with a
    plain `int` as bytes, with a member of an `IntEnum` as 64-bit integers, which takes ten times as long.
    """
    found = np.zeros_like(classes, bool)
    for kind in kinds:
        found |= classes == int(kind)
    return found


def is_observed(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """True where the ground was seen. Any shape in, same shape out."""
    return among(classes, OBSERVED)


def is_hidden(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """True where cloud, shadow or a defect hides the ground. Any shape in, same shape out."""
    return among(classes, HIDDEN)


def beside_nodata(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """True where a mask `(y, x)` has no data within `RIM` pixels along rows and columns: the edge of a swath."""
    outside = among(classes, (PixelClass.NODATA,))
    if not outside.any():
        return outside
    return around_square(outside, RIM)


def around_square(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Return a mask `(y, x)` grown by so many pixels along rows and columns."""
    found = np.pad(mask, reach)
    for _axis in range(2):
        found, wide = found.swapaxes(0, 1), 1
        # Each step at most doubles how many neighbours a pixel has taken in.
        while wide < 2 * reach + 1:
            step = min(wide, 2 * reach + 1 - wide)
            found, wide = found[:-step] | found[step:], wide + step
    return found


def mark_missing(
    classes: NDArray[np.uint8],
    some: NDArray[np.bool_],
    every: NDArray[np.bool_],
    beside: NDArray[np.bool_],
) -> None:
    """Separate gaps inside a swath from the ground outside of it, in place.

    A band that is clipped to 0 in deep shadow, or a line that was lost, is a gap: hidden, to be filled. Without any
    band at the edge of the swath, or where the mask has no data, there is nothing. Neither is there where every band is
    missing and the mask calls the ground clear: the file's own mask says so, and a classification says nothing of it.

    Args:
        classes: `PixelClass` values of the mask `(y, x)`.
        some: where any band has no data.
        every: where all bands have none.
        beside: the edge of the swath, from `beside_nodata`.
    """
    if not some.any():
        return
    observed = is_observed(classes)
    outside = among(classes, (PixelClass.NODATA,)) | (every & (beside | observed))
    # What a mask calls shadow or cloud stays so, and grows as such.
    classes[some & ~outside & observed] = PixelClass.DEFECTIVE
    classes[some & outside] = PixelClass.NODATA
