"""Which tiles a scene, or a part of it, is cut into, and how their results become one image again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from de_model.errors import InvalidModelInput
from de_model.inference.sampling import Sampling
from de_model.scene.observation import Levels

FloatArray = NDArray[np.float32]
#: First pixel, and the pixel after the last.
Span = tuple[int, int]


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


def blending_window(size: int, overlap: int) -> FloatArray:
    """Return weights `(y, x)` in (0, 1]: a raised cosine over the overlap, 1 inside.

    Weights never reach 0, so the weighted mean is defined at the border of the scene too.
    """
    ramp = np.ones(size, dtype=np.float64)
    if overlap:
        rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(overlap) + 0.5) / overlap)
        ramp[:overlap], ramp[size - overlap :] = rise, rise[::-1]
    return np.outer(ramp, ramp).clip(1e-4).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a scene lies in the canvas that tiles are cut from, and where the canvas lies in the noise field.

    The canvas is the scene, mirrored outwards where a tile or a grid asks for more.
    """

    #: Rows above and below, columns left and right of the scene.
    padding: tuple[tuple[int, int], tuple[int, int]]
    #: Absolute row and column of the canvas's first pixel.
    origin: tuple[int, int]
    #: Rows and columns of the scene.
    shape: tuple[int, int]

    @classmethod
    def around(cls, shape: tuple[int, int], origin: tuple[int, int], size: int, grid: int = 1) -> Frame:
        """Return the smallest canvas that holds a tile.

        Args:
            shape: rows and columns of the scene.
            origin: absolute row and column of the scene's first pixel.
            size: side of a tile, a multiple of `grid`.
            grid: the canvas begins and ends on absolute multiples of this, so that blocks of `grid` pixels are the same
                blocks in every tile, whatever part of a scene is read.
        """
        before = [first % grid for first in origin]
        after = [max(size - b - n, -(b + n) % grid) for b, n in zip(before, shape, strict=True)]
        padding = ((before[0], after[0]), (before[1], after[1]))
        return cls(padding, (origin[0] - before[0], origin[1] - before[1]), shape)

    def part(self, offset: tuple[int, int], shape: tuple[int, int]) -> Frame:
        """Return the canvas of a window of the scene: mirrored at the scene's own edges only.

        Args:
            offset: row and column of the window's first pixel in the scene.
            shape: rows and columns of the window.
        """
        sides = zip(offset, shape, self.shape, self.padding, strict=True)
        padding = tuple((b if o == 0 else 0, a if o + n == whole else 0) for o, n, whole, (b, a) in sides)
        origin = tuple(
            first + (before + o if o else 0)
            for first, o, (before, _) in zip(self.origin, offset, self.padding, strict=True)
        )
        return Frame((padding[0], padding[1]), (origin[0], origin[1]), shape)

    @property
    def canvas_shape(self) -> tuple[int, int]:
        """Rows and columns of the canvas."""
        (top, bottom), (left, right) = self.padding
        return top + self.shape[0] + bottom, left + self.shape[1] + right

    def mirror(self, image: FloatArray) -> FloatArray:
        """Return `image` `(band, y, x)` mirrored out to the canvas."""
        return np.pad(image, [(0, 0), *self.padding], mode="symmetric")

    def surround(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return `mask` `(y, x)` with False around it."""
        return np.pad(mask, self.padding)

    def crop(self, layers: FloatArray) -> FloatArray:
        """Return the scene's part of `(layer, y, x)`."""
        (top, _), (left, _) = self.padding
        return layers[:, top : top + self.shape[0], left : left + self.shape[1]]


@dataclass(frozen=True, slots=True)
class Part:
    """A window of a larger scene, handed to `restore` in place of the scene: it gives the bytes of the whole."""

    #: Rows and columns of the whole scene.
    scene: tuple[int, int]
    #: Row and column of the window's first pixel in the scene.
    offset: tuple[int, int]
    #: Reflectance per band put where the scene has no data; the same for all parts of a scene.
    fill: tuple[float, ...]
    #: Levels of the whole scene, for models of the second edition; None takes those of the window.
    levels: Levels | None = None

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise `InvalidModelInput` unless a window of `shape` lies inside the scene."""
        if any(o < 0 or o + n > whole for o, n, whole in zip(self.offset, shape, self.scene, strict=True)):
            raise InvalidModelInput(f"A part of {shape} at {self.offset} does not lie in a scene of {self.scene} px.")


def surroundings(rows: Span, columns: Span, frame: Frame, size: int, overlap: int) -> tuple[Span, Span]:
    """Return the rows and columns of a scene that must be read to restore some of its pixels.

    Args:
        rows: first row and the row after the last of the pixels that are wanted.
        columns: likewise.
        frame: the canvas of the whole scene.
        size: side of a tile, pixels.
        overlap: pixels shared by neighbours.
    """
    vertical, horizontal = (
        _span(wanted, length, before, canvas, size, overlap)
        for wanted, length, (before, _), canvas in zip(
            (rows, columns), frame.shape, frame.padding, frame.canvas_shape, strict=True
        )
    )
    return vertical, horizontal


def _span(wanted: Span, length: int, before: int, canvas: int, size: int, overlap: int) -> Span:
    first, last = wanted[0] + before, wanted[1] + before
    touching = [start for start in starts(canvas, size, overlap) if start < last and start + size > first]
    return max(touching[0] - before, 0), min(touching[-1] + size - before, length)


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the tiles of a scene, or of a part of it, lie."""

    #: Of the part, on the grid of the whole scene; what tiles are cut from is made by its `mirror`.
    frame: Frame
    #: Tiles with a pixel that is needed.
    tiles: tuple[Tile, ...]
    #: Rows and columns of the canvas.
    shape: tuple[int, int]
    window: FloatArray

    @classmethod
    def of(cls, needed: NDArray[np.bool_], sampling: Sampling, origin: tuple[int, int], part: Part) -> Plan:
        """Plan the tiles.

        Args:
            needed: `(y, x)`, True where a result is wanted.
            sampling: tile, overlap and grid.
            origin: absolute row and column of the whole scene's first pixel.
            part: where `needed` lies in the whole scene.
        """
        part.check(needed.shape)
        whole = Frame.around(part.scene, origin, sampling.tile, sampling.grid)
        frame = whole.part(part.offset, needed.shape)
        wanted = frame.surround(needed)
        corner = (frame.origin[0] - whole.origin[0], frame.origin[1] - whole.origin[1])
        tiles = plan_tiles(wanted, sampling.tile, sampling.overlap, whole.canvas_shape, corner)
        return cls(frame, tuple(tiles), wanted.shape, blending_window(sampling.tile, sampling.overlap))

    def blended(
        self, results: Iterable[tuple[list[Tile], FloatArray]], layers: int, on_tile: Callable[[int, int], None] | None
    ) -> FloatArray:
        """Return layers `(layer, y, x)` of the part; NaN where no tile lies.

        Args:
            results: tiles with their layers `(tile, layer, y, x)`, in order.
            layers: number of layers.
            on_tile: called with (tiles done, tiles in all).
        """
        sums, weight = np.zeros((layers, *self.shape), np.float32), np.zeros(self.shape, np.float32)
        done = 0
        for batch, found in results:
            for tile, own in zip(batch, found, strict=True):
                sums[:, *tile.window] += own * self.window
                weight[tile.window] += self.window
            done += len(batch)
            if on_tile is not None:
                on_tile(done, len(self.tiles))
        sums /= np.where(weight == 0, np.float32(np.nan), weight)
        return self.frame.crop(sums)
