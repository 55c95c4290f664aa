"""Restore the needed pixels of a scene with Diffusion Enhancement, tile by tile; of an image of any size by blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.inference.another_day import is_cloud, on_another_day
from de_model.inference.layers import Canvases, layers_of, standardised_layers
from de_model.inference.running import on_device
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Frame, Part, Plan, Span, surroundings
from de_model.scene.observation import Levels, Observation, SceneClass, classes_of, levels_of, maps_of
from de_model.scene.shadows import shadows_beside

FloatArray = NDArray[np.float32]
Progress = Callable[[int, int], None]

#: Tiles that a GPU runs together; fewer where they do not fit into its memory.
_TILES_AT_ONCE = 32
#: Side of a block, pixels: three images and a weight of this size are held for every band.
_SIDE = 1024


@dataclass(frozen=True, slots=True)
class Restoration:
    """What the model says about a scene; NaN outside the tiles that were run."""

    #: Restored surface reflectance `(band, y, x)`, 0..1.
    image: FloatArray
    #: W averaged over bands and samples `(y, x)`, eta..1.
    reference_weight: FloatArray
    #: Standard deviation `(band, y, x)`, reflectance: as the model predicts it, over samples with the first edition.
    spread: FloatArray
    #: The reference alone `(band, y, x)`, reflectance: the network's, or the given one where it was given.
    reference: FloatArray
    #: Number of tiles run.
    tiles: int

    def window(self, at: tuple[slice, slice]) -> Restoration:
        """Return the layers of a window; the tiles are those of the whole."""
        image, spread, reference = (layer[:, *at] for layer in (self.image, self.spread, self.reference))
        return replace(
            self, image=image, spread=spread, reference=reference, reference_weight=self.reference_weight[at]
        )


def restore(
    enhancer: Enhancer,
    scene: FloatArray,
    needed: NDArray[np.bool_],
    sampling: Sampling,
    on_tile: Progress | None = None,
    origin: tuple[int, int] = (0, 0),
    reference: FloatArray | None = None,
    part: Part | None = None,
    hidden: NDArray[np.bool_] | None = None,
    gsd_m: float | None = None,
) -> Restoration:
    """Restore the needed pixels of a scene, or of a part of it.

    Args:
        enhancer: the model; its device is used.
        scene: surface reflectance `(band, y, x)` as observed, clouds included, NaN at nodata.
        needed: `(y, x)`, True where a result is wanted.
        sampling: seed, samples, sampler, steps, eta and tiling.
        on_tile: called with (tiles done, tiles in all) after each batch.
        origin: absolute row and column of the scene's first pixel, the address in the noise field.
        reference: surface reflectance `(band, y, x)` to use instead of the reference network's, for example a composite
            of other dates; the network stays where a pixel is not finite in every band.
        part: where the arrays lie when they are a window of a larger scene; `origin` is then that of the whole scene,
            and the result is what the whole scene would give, bit for bit on a CPU.
        hidden: `(y, x)`, every pixel that does not show the ground, needed or not; the needed ones when left out. To
            models of the second edition the rest is known ground.
        gsd_m: side of a pixel, metres; that of the model's card when left out.

    Raises:
        InvalidModelInput: bands or shapes do not fit, a value of `sampling` is out of range, or the
            model gives values that are not finite.
        OutOfMemory: not even one tile fits into memory.
    """
    sampling.check(enhancer.card)
    _check_scene(enhancer, scene, needed, reference)
    part = part or Part(needed.shape, (0, 0), fill_level(scene))
    plan, levels, at_once = Plan.of(needed, sampling, origin, part), None, _TILES_AT_ONCE
    frame, networks, design = plan.frame, enhancer.scene, enhancer.card.scene
    if networks is None or design is None:
        given = None if reference is None else frame.mirror(reference)
        canvases = Canvases(frame.mirror(_fill_nodata(scene, part.fill)), given, frame.origin)
        run = partial(layers_of, enhancer, canvases, sampling)
    else:
        hidden = needed if hidden is None else hidden
        levels, at_once = part.levels or scene_levels(scene, hidden), 1
        seen = Observation(scene, classes_of(scene, hidden, levels), gsd_m=gsd_m or enhancer.card.gsd_m)
        maps, numbers = maps_of(seen, levels)
        given = None if reference is None else frame.mirror(levels.standardised(reference))
        run = partial(standardised_layers, networks, design, frame.mirror(maps), numbers, sampling, frame.origin, given)
    results = on_device(plan.tiles, run, next(enhancer.parameters()).device, at_once)
    bands = len(scene)
    blended = plan.blended(results, 3 * bands + 1, on_tile)
    image, spread, used, weight = np.split(blended, [bands, 2 * bands, 3 * bands])
    if levels is not None:
        image, used = (np.clip(levels.reflectance(each), 0, 1) for each in (image, used))
        spread = (spread * levels.columns()[1]).astype(np.float32)
    return Restoration(image, weight[0], spread, used, len(plan.tiles))


def scene_levels(scene: FloatArray, hidden: NDArray[np.bool_]) -> Levels:
    """Return the levels of a scene outside the hidden pixels; arguments as for `restore`."""
    classes = np.where(hidden, SceneClass.THICK, SceneClass.CLEAR).astype(np.uint8)
    classes[~np.isfinite(scene).all(axis=0)] = SceneClass.NODATA
    return levels_of(scene, classes)


def _check_scene(
    enhancer: Enhancer, scene: FloatArray, needed: NDArray[np.bool_], reference: FloatArray | None
) -> None:
    bands = enhancer.card.bands
    if scene.ndim != 3 or scene.shape[0] != len(bands):
        raise InvalidModelInput(f"Scene of shape {scene.shape}; the model wants (band, y, x) with bands {bands}.")
    if needed.shape != scene.shape[1:]:
        raise InvalidModelInput(f"Mask of shape {needed.shape} for a scene of shape {scene.shape[1:]}.")
    if reference is not None and reference.shape != scene.shape:
        raise InvalidModelInput(f"Reference of shape {reference.shape} for a scene of shape {scene.shape}.")


def fill_level(scene: FloatArray) -> tuple[float, ...]:
    """Return the median of every band over the pixels that hold data in all; 0 where none does."""
    valid = np.isfinite(scene).all(axis=0)
    level = np.median(scene[:, valid], axis=1) if valid.any() else np.zeros(len(scene))
    return tuple(float(value) for value in level)


def _fill_nodata(scene: FloatArray, level: tuple[float, ...]) -> FloatArray:
    """Return the scene with NaN replaced by the bands' levels, so that edges look like ordinary ground."""
    missing = np.isnan(scene)
    if not missing.any():
        return scene
    return np.where(missing, np.array(level, np.float32)[:, None, None], scene).astype(np.float32)


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
    #: Pixels that were taken for shadow, and not for ground that says how the rest looks.
    shadow_pixels: int = 0


def restore_image(
    enhancer: Enhancer,
    scene: FloatArray,
    needed: NDArray[np.bool_],
    sampling: Sampling,
    on_tile: Progress | None = None,
    side: int = _SIDE,
    gsd_m: float | None = None,
    another_day: bool = True,
    hidden: NDArray[np.bool_] | None = None,
) -> RestoredImage:
    """Restore the needed pixels of an image; on a CPU no bit depends on the size of the blocks.

    Args:
        enhancer: the model.
        scene: surface reflectance `(band, y, x)` as observed, NaN at nodata.
        needed: `(y, x)`, True where a result is wanted.
        sampling: seed, samples, sampler, steps, eta and tiling.
        on_tile: called with (tiles done, tiles in all) of the block at hand.
        side: of a block, pixels.
        gsd_m: side of a pixel, metres; that of the model's card when left out.
        another_day: show what a clear day would, as far as the model's card says how; else the day of the image.
        hidden: `(y, x)`, every pixel that does not show the ground, needed or not; the needed ones when left out.

    Raises:
        InvalidModelInput, OutOfMemory: as `restore`.
    """
    if needed.shape != scene.shape[1:]:
        raise InvalidModelInput(f"Mask of shape {needed.shape} for a scene of shape {scene.shape[1:]}.")
    frame, fill = Frame.around(needed.shape, (0, 0), sampling.tile, sampling.grid), fill_level(scene)
    covered = needed if hidden is None else hidden
    levels, unseen = _known_of(enhancer, scene, covered, gsd_m or enhancer.card.gsd_m)
    image, weight, spread, tiles = np.full_like(scene, np.nan), 0.0, 0.0, 0
    for rows, columns in _blocks(needed, side):
        (top, bottom), (left, right) = surroundings(rows, columns, frame, sampling.tile, sampling.overlap)
        window, wanted = np.s_[top:bottom, left:right], np.zeros((bottom - top, right - left), bool)
        inside = np.s_[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]
        wanted[inside] = needed[slice(*rows), slice(*columns)]
        part = Part(needed.shape, (top, left), fill, levels)
        found = restore(
            enhancer, scene[:, *window], wanted, sampling, on_tile, part=part, hidden=unseen[window], gsd_m=gsd_m
        )
        image[:, *window][:, wanted] = found.image[:, wanted]
        weight += float(found.reference_weight[wanted].sum(dtype=np.float64))
        spread += float(found.spread[:, wanted].mean(axis=0, dtype=np.float64).sum())
        tiles += found.tiles
    if levels is not None and enhancer.card.scene is not None and another_day:
        image = on_another_day(image, scene, covered, levels, enhancer.card.bands, enhancer.card.scene.another_day)
    count = int(needed.sum()) or np.nan
    return RestoredImage(image, weight / count, spread / count, tiles, int((unseen & ~covered).sum()))


def _known_of(
    enhancer: Enhancer, scene: FloatArray, covered: NDArray[np.bool_], gsd_m: float
) -> tuple[Levels | None, NDArray[np.bool_]]:
    """Return the levels of an image, and every pixel that says nothing of the ground: shadows beside clouds, too."""
    if enhancer.scene is None:
        return None, covered
    levels = scene_levels(scene, covered)
    if not is_cloud(scene, covered, levels):
        return levels, covered
    unseen = covered | shadows_beside(scene, covered, enhancer.card.bands, gsd_m)
    return scene_levels(scene, unseen), unseen


def _blocks(needed: NDArray[np.bool_], side: int) -> Iterator[tuple[Span, Span]]:
    """Yield rows and columns of every block in which a pixel is wanted."""
    height, width = needed.shape
    for row in range(0, height, side):
        for column in range(0, width, side):
            rows, columns = (row, min(row + side, height)), (column, min(column + side, width))
            if needed[slice(*rows), slice(*columns)].any():
                yield rows, columns
