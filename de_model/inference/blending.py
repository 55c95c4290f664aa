"""From a scene to tiles, and from tiles back to one image."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from de_model.inference.frame import Frame
from de_model.inference.part import Part
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Tile, blending_window, plan_tiles

FloatArray = NDArray[np.float32]


class Canvas:
    """Weighted sums over overlapping tiles.

    Args:
        layers: number of layers.
        shape: rows and columns.
        window: weights of a tile's pixels `(y, x)`, above 0.
    """

    def __init__(self, layers: int, shape: tuple[int, int], window: FloatArray) -> None:
        self._layers = np.zeros((layers, *shape), dtype=np.float32)
        self._weight = np.zeros(shape, dtype=np.float32)
        self._window = window

    def add(self, tile: Tile, layers: FloatArray) -> None:
        """Add a tile's layers `(layer, y, x)`."""
        self._layers[:, *tile.window] += layers * self._window
        self._weight[tile.window] += self._window

    def mean(self) -> FloatArray:
        """Return the weighted means `(layer, y, x)`; NaN where no tile was added."""
        empty = self._weight == 0
        blended = self._layers / np.where(empty, np.float32(1), self._weight)
        blended[:, empty] = np.nan
        return blended.astype(np.float32, copy=False)


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
        canvas, done = Canvas(layers, self.shape, self.window), 0
        for batch, found in results:
            for tile, own in zip(batch, found, strict=True):
                canvas.add(tile, own)
            done += len(batch)
            if on_tile is not None:
                on_tile(done, len(self.tiles))
        return self.frame.crop(canvas.mean())
