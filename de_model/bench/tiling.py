"""What tiles cost and whether they can be seen."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from de_model.inference.frame import Frame
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Tile, plan_tiles, starts

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


def tiles_of(needed: BoolArray, sampling: Sampling) -> list[Tile]:
    """Return the tiles that the engine runs for the pixels `needed` `(y, x)` of a scene."""
    frame = Frame.around(needed.shape, (0, 0), sampling.tile, sampling.grid)
    return plan_tiles(frame.surround(needed), sampling.tile, sampling.overlap)


def redundancy(needed: BoolArray, sampling: Sampling) -> float:
    """Return pixels run over pixels needed: overlap, padding, and what tiles hold besides. At least one is needed."""
    return len(tiles_of(needed, sampling)) * sampling.tile**2 / int(needed.sum())


def whole_redundancy(side: int, sampling: Sampling) -> float:
    """Return the redundancy of a square scene of `side` pixels that is needed everywhere."""
    rows = len(starts(max(side, sampling.tile), sampling.tile, sampling.overlap))
    return (rows * sampling.tile / side) ** 2


def seam_ratio(image: FloatArray, sampling: Sampling) -> float:
    """Return the mean step between pixels across tile borders over that between all others; 1 shows no seam.

    A border is where a tile begins or ends, so every overlap counts with both its edges.

    Args:
        image: `(band, y, x)`, finite, at least two tiles high or wide.
        sampling: how it was tiled.
    """
    on, off = [], []
    for axis in (1, 2):
        steps = np.abs(np.diff(image, axis=axis)).mean(axis=(0, 3 - axis))
        border = np.zeros(len(steps), bool)
        for first in starts(image.shape[axis], sampling.tile, sampling.overlap):
            edges = (first - 1, first + sampling.tile - 1)
            border[[edge for edge in edges if 0 <= edge < len(steps)]] = True
        on.append(steps[border])
        off.append(steps[~border])
    return float(np.concatenate(on).mean() / np.concatenate(off).mean())


def psnr(image: FloatArray, other: FloatArray, where: BoolArray) -> float:
    """Return the PSNR between images `(band, y, x)` on the pixels `where` `(y, x)` for a peak of 1, dB."""
    mse = float(np.square(image[:, where].astype(np.float64) - other[:, where]).mean())
    return math.inf if mse == 0 else -10 * math.log10(mse)
