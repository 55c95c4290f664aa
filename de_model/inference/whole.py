"""Restoring an image of any size: block by block, so that only the image itself is held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.inference.engine import Progress, fill_level, restore, scene_levels
from de_model.inference.frame import Frame
from de_model.inference.part import Part, Span, surroundings
from de_model.inference.sampling import Sampling
from de_model.scene.observation import Levels

FloatArray = NDArray[np.float32]

#: Side of a block, pixels: the engine holds three images and a weight of this size for every band.
_SIDE = 1024
#: What hides the ground is cloud where it exceeds the clear level by this in the visible bands, reflectance.
_CLOUDY = 0.01


@dataclass(frozen=True, slots=True)
class RestoredImage:
    """What the model makes of an image."""

    #: Surface reflectance `(band, y, x)`, 0..1; NaN where nothing was wanted.
    image: FloatArray
    #: Means over the restored pixels; NaN without any.
    mean_reference_weight: float
    mean_spread: float
    #: Tiles run; those that reach over the edge of a block are run for either side.
    tiles: int


def restore_image(
    enhancer: Enhancer,
    scene: FloatArray,
    needed: NDArray[np.bool_],
    sampling: Sampling,
    on_tile: Progress | None = None,
    side: int = _SIDE,
) -> RestoredImage:
    """Restore the needed pixels of an image; on a CPU no bit depends on the size of the blocks.

    Args:
        enhancer: the model.
        scene: surface reflectance `(band, y, x)` as observed, NaN at nodata.
        needed: `(y, x)`, True where a result is wanted.
        sampling: seed, samples, sampler, steps, eta and tiling.
        on_tile: called with (tiles done, tiles in all) of the block at hand.
        side: of a block, pixels.

    Raises:
        InvalidModelInput, OutOfMemory: as `restore`.
    """
    if needed.shape != scene.shape[1:]:
        raise InvalidModelInput(f"Mask of shape {needed.shape} for a scene of shape {scene.shape[1:]}.")
    frame, fill = Frame.around(needed.shape, (0, 0), sampling.tile, sampling.grid), fill_level(scene)
    levels = None if enhancer.scene is None else scene_levels(scene, needed)
    image, weight, spread, tiles = np.full_like(scene, np.nan), 0.0, 0.0, 0
    for rows, columns in _blocks(needed, side):
        (top, bottom), (left, right) = surroundings(rows, columns, frame, sampling.tile, sampling.overlap)
        window, wanted = np.s_[top:bottom, left:right], np.zeros((bottom - top, right - left), bool)
        inside = np.s_[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]
        wanted[inside] = needed[slice(*rows), slice(*columns)]
        part = Part(needed.shape, (top, left), fill, levels)
        found = restore(enhancer, scene[:, *window], wanted, sampling, on_tile, part=part, hidden=needed[window])
        image[:, *window][:, wanted] = found.image[:, wanted]
        weight += float(found.reference_weight[wanted].sum(dtype=np.float64))
        spread += float(found.spread[:, wanted].mean(axis=0, dtype=np.float64).sum())
        tiles += found.tiles
    if levels is not None and enhancer.card.scene is not None:
        image = _on_another_day(image, scene, needed, levels, enhancer.card.scene.another_day)
    count = int(needed.sum()) or np.nan
    return RestoredImage(image, weight / count, spread / count, tiles)


def _on_another_day(
    image: FloatArray, scene: FloatArray, needed: NDArray[np.bool_], levels: Levels, expected: tuple[float, ...]
) -> FloatArray:
    """Return what a clear day would show where clouds were taken away; the image itself where there were none.

    Args:
        image: restored reflectance `(band, y, x)`, NaN where nothing was wanted.
        scene: as observed.
        needed: `(y, x)`.
        levels: of the scene.
        expected: share of what is restored, and what is added, for all bands or for each, in standardised reflectance.
    """
    if expected == (1.0, 0.0) or not needed.any():
        return image
    median, _ = levels.columns()
    excess = (scene - median)[: min(3, len(scene)), needed]
    if not np.nanmedian(excess) > _CLOUDY:
        return image
    share, *added = expected
    z = levels.standardised(image)
    return np.clip(levels.reflectance(share * z + np.array(added, np.float32)[:, None, None]), 0, 1)


def _blocks(needed: NDArray[np.bool_], side: int) -> Iterator[tuple[Span, Span]]:
    """Yield rows and columns of every block in which a pixel is wanted."""
    height, width = needed.shape
    for row in range(0, height, side):
        for column in range(0, width, side):
            rows, columns = (row, min(row + side, height)), (column, min(column + side, width))
            if needed[slice(*rows), slice(*columns)].any():
                yield rows, columns
