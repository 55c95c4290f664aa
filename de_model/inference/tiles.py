"""Which tiles a scene is cut into, and how their results are blended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from de_model.errors import InvalidModelInput


@dataclass(frozen=True, slots=True)
class Tile:
    """A window of the scene: first row, first column, and side length in pixels."""

    row: int
    column: int
    size: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Row and column slices."""
        return slice(self.row, self.row + self.size), slice(self.column, self.column + self.size)


def starts(length: int, size: int, overlap: int) -> list[int]:
    """Return first pixels of tiles that cover `length` pixels, the last one flush with the end."""
    if length <= size:
        return [0]
    stride = size - overlap
    return [*range(0, length - size, stride), length - size]


def plan_tiles(needed: NDArray[np.bool_], size: int, overlap: int) -> list[Tile]:
    """Return the tiles of a scene that hold at least one needed pixel, row by row.

    The grid is the same whatever is needed, and every tile that covers a needed pixel is returned, so a
    pixel's result does not depend on which other pixels are needed.

    Args:
        needed: `(y, x)`, at least `size` pixels on each side (pad before).
        size: side length of a tile, pixels.
        overlap: pixels shared by neighbours, less than half of `size`.

    Raises:
        InvalidModelInput: the overlap is not within 0..size/2.
    """
    if not 0 <= overlap <= size // 2:
        raise InvalidModelInput(f"Overlap of {overlap} px with tiles of {size} px; choose 0 to {size // 2}.")
    height, width = needed.shape
    grid = (Tile(r, c, size) for r in starts(height, size, overlap) for c in starts(width, size, overlap))
    return [tile for tile in grid if needed[tile.window].any()]


def blending_window(size: int, overlap: int) -> NDArray[np.float32]:
    """Return weights `(y, x)` in (0, 1]: a raised cosine over the overlap, 1 inside.

    Weights never reach 0, so the weighted mean is defined at the border of the scene too.
    """
    ramp = np.ones(size, dtype=np.float64)
    if overlap:
        rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(overlap) + 0.5) / overlap)
        ramp[:overlap], ramp[size - overlap :] = rise, rise[::-1]
    return np.outer(ramp, ramp).clip(1e-4).astype(np.float32)
