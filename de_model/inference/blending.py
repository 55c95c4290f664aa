"""Putting tiles together to one image."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np
from numpy.typing import NDArray

from de_model.inference.tiles import Tile

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


class Blending:
    """Adds batches of tiles to a canvas in their order; beside a GPU, while it computes the next batch.

    The model stays in the thread of its caller, where CUDA graphs were recorded.
    """

    def __init__(self, canvas: Canvas, *, beside: bool) -> None:
        self._canvas = canvas
        self._pool = ThreadPoolExecutor(1, "unveil-blending") if beside else None
        self._last: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        self._wait()

    def add(self, batch: Sequence[Tile], layers: FloatArray) -> None:
        """Add a batch, or have it added; no more than one waits."""
        self._wait()
        if self._pool is None:
            self._add(batch, layers)
        else:
            self._last = self._pool.submit(self._add, batch, layers)

    def _add(self, batch: Sequence[Tile], layers: FloatArray) -> None:
        for tile, found in zip(batch, layers, strict=True):
            self._canvas.add(tile, found)

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()
