"""DE against its own reference, block by block, so that a difference can have an interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from de_model.metrics.standard import score

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Side of a block, pixels, and the scored pixels it must hold; neighbours are as good as independent.
_SIDE, _LEAST = 64, 400


@dataclass(frozen=True, slots=True)
class BlockGain:
    """Figures of one block: DE, and the reference it was given."""

    psnr: float
    reference_psnr: float
    #: Error of the power of fine detail, dB; NaN where no window fits.
    spectrum: float
    reference_spectrum: float


def block_gains(
    image: FloatArray, reference: FloatArray, truth: FloatArray, where: BoolArray, seen: BoolArray, bands: Sequence[str]
) -> Iterator[BlockGain]:
    """Yield the figures of every block with enough scored pixels.

    Args:
        image: DE's result `(band, y, x)`, reflectance.
        reference: the reference's, same shape.
        truth: the clear date, same shape.
        where: `(y, x)`, pixels that are scored.
        seen: `(y, x)`, pixels whose truth may be looked at.
        bands: common names in channel order.
    """
    rows, columns = where.shape
    for row in range(0, rows, _SIDE):
        for column in range(0, columns, _SIDE):
            block = (slice(row, row + _SIDE), slice(column, column + _SIDE))
            if where[block].sum() < _LEAST:
                continue
            own, other = (
                score(candidate[:, *block], truth[:, *block], where[block], tuple(bands), seen[block])
                for candidate in (image, reference)
            )
            yield BlockGain(own.psnr, other.psnr, own.spectrum, other.spectrum)
