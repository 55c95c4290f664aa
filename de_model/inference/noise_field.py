"""One Gaussian noise field over the whole world of a scene, addressed by coordinates.

Counter-based (Philox 4x32-10; Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), so any
tile can draw its part alone and overlapping tiles see the same noise, whatever their order, batch or worker.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from de_model.inference.tiles import Tile

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10


def philox(counter: tuple[NDArray[np.uint64], ...], key: tuple[int, int]) -> tuple[NDArray[np.uint64], ...]:
    """Return four 32-bit random words per counter (in uint64 arrays), the four counter words broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> _HALF) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _HALF) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


@dataclass(frozen=True, slots=True)
class NoiseField:
    """Unit Gaussian noise keyed by (seed, sample, stream, band, absolute y, absolute x)."""

    seed: int
    sample: int = 0

    def window(self, row: int, column: int, shape: tuple[int, int], bands: int, stream: int = 0) -> NDArray[np.float32]:
        """Return noise `(band, y, x)` for the window whose first pixel is (`row`, `column`).

        Rows and columns may be negative (padding); they wrap at 2^32. Streams, 0..2^16-1, are independent fields, for
        samplers that need noise more than once.
        """
        height, width = shape
        y = ((row + np.arange(height, dtype=np.int64)) & 0xFFFFFFFF).astype(np.uint64)[None, :, None]
        x = ((column + np.arange(width, dtype=np.int64)) & 0xFFFFFFFF).astype(np.uint64)[None, None, :]
        # Band and stream share one word of the counter; stream 0 leaves the band alone.
        band = (np.arange(bands, dtype=np.uint64) + np.uint64(stream << 16))[:, None, None]
        counter = np.broadcast_arrays(x, y, band, np.uint64(self.sample))
        first, second, _, _ = philox(counter, self.key)
        # Box-Muller; half a unit keeps the logarithm finite.
        radius = np.sqrt(-2 * np.log((first + 0.5) / 2**32))
        return (radius * np.cos(2 * np.pi * second / 2**32)).astype(np.float32)

    @property
    def key(self) -> tuple[int, int]:
        """The two 32-bit words of the seed."""
        return self.seed & 0xFFFFFFFF, (self.seed >> 32) & 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class TileNoise:
    """The noise of one sample of a batch of tiles: the samplers' `NoiseSource`."""

    field: NoiseField
    tiles: tuple[Tile, ...]
    #: Absolute row and column of the canvas that the tiles are windows of.
    origin: tuple[int, int]
    bands: int
    device: torch.device

    def __call__(self, stream: int, scale: int) -> Tensor:
        """Return noise `(tile, band, y / scale, x / scale)`.

        A pixel of a smaller image has its own address, the absolute number of the block that it stands for; tiles agree
        where they overlap if they begin on absolute multiples of `scale`.
        """
        side = self.tiles[0].size // scale
        drawn = [
            self.field.window(
                (self.origin[0] + tile.row) // scale,
                (self.origin[1] + tile.column) // scale,
                (side, side),
                self.bands,
                stream,
            )
            for tile in self.tiles
        ]
        return torch.from_numpy(np.stack(drawn)).to(self.device)
