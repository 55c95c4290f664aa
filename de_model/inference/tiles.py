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


def plan_tiles(
    needed: NDArray[np.bool_],
    size: int,
    overlap: int,
    whole: tuple[int, int] | None = None,
    corner: tuple[int, int] = (0, 0),
) -> list[Tile]:
    """Return the tiles of a canvas that hold at least one needed pixel, row by row.

    The grid is the same whatever is needed, and every tile that covers a needed pixel is returned, so a
    pixel's result does not depend on which other pixels are needed, nor on which part of a scene is asked about.

    Args:
        needed: `(y, x)`, at least `size` pixels on each side (pad before).
        size: side length of a tile, pixels.
        overlap: pixels shared by neighbours, less than half of `size`.
        whole: rows and columns of the canvas whose grid is used, when `needed` is a part of it.
        corner: row and column of the part's first pixel in that canvas.

    Raises:
        InvalidModelInput: the overlap is not within 0..size/2, or a tile reaches beyond the part.
    """
    if not 0 <= overlap <= size // 2:
        raise InvalidModelInput(f"Overlap of {overlap} px with tiles of {size} px; choose 0 to {size // 2}.")
    rows, columns = (
        [first - begin for first in starts(length, size, overlap) if begin - size < first < begin + extent]
        for length, begin, extent in zip(whole or needed.shape, corner, needed.shape, strict=True)
    )
    grid = (Tile(row, column, size) for row in rows for column in columns)
    tiles = [t for t in grid if needed[max(t.row, 0) : t.row + size, max(t.column, 0) : t.column + size].any()]
    height, width = needed.shape
    if any(min(t.row, t.column) < 0 or t.row + size > height or t.column + size > width for t in tiles):
        raise InvalidModelInput("A needed tile reaches beyond the part of the scene; read its surroundings too.")
    return tiles


def blending_window(size: int, overlap: int) -> NDArray[np.float32]:
    """Return weights `(y, x)` in (0, 1]: a raised cosine over the overlap, 1 inside.

    Weights never reach 0, so the weighted mean is defined at the border of the scene too.
    """
    ramp = np.ones(size, dtype=np.float64)
    if overlap:
        rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(overlap) + 0.5) / overlap)
        ramp[:overlap], ramp[size - overlap :] = rise, rise[::-1]
    return np.outer(ramp, ramp).clip(1e-4).astype(np.float32)
