"""The canvas that tiles are cut from: the scene, mirrored outwards where a tile or a grid asks for more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a scene lies in its padded canvas, and where the canvas lies in the noise field."""

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

    def mirror(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `image` `(band, y, x)` mirrored out to the canvas."""
        return np.pad(image, [(0, 0), *self.padding], mode="symmetric")

    def surround(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return `mask` `(y, x)` with False around it."""
        return np.pad(mask, self.padding)

    def crop(self, layers: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scene's part of `(layer, y, x)`."""
        (top, _), (left, _) = self.padding
        return layers[:, top : top + self.shape[0], left : left + self.shape[1]]
