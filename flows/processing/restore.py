"""Restore one date of a cell: composite first, then the best filler of its kind where no date saw the ground.

What a restoration learns about the whole cell is learnt once, from a thinned view of it (`prepare`). After that every
window is restored on its own (`restore_block`) with the bytes that the whole cell would give.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.fill import fillnodata

from de_model.calibration import CalibrationTable, Origin, calibration_of
from de_model.enhancer import Enhancer
from de_model.inference.engine import Restoration, restore, scene_levels
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Frame, Part, surroundings
from de_model.metrics.baselines import REACH_PX, Interpolated, interpolated
from de_model.scene.observation import Levels
from de_model.validation import (
    CLEAR_SHARE,
    GAP_FILLERS,
    Filler,
    KindCode,
    PixelKind,
    fillers_of,
    kinds_of_gaps,
    validation_of,
)
from flows.errors import InvalidSettings
from flows.settings.restoring import GapFilling, RestorationOptions
from stac.composite.methods import FittedComposite, fit_composite
from stac.composite.temporal import TemporalComposite
from stac.grid.cell import Cell
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_hidden, is_observed
from stac.product.block_store import Block
from stac.product.layers import Intervals, ModelResult, ProductLayers, assemble, best_known, unseen

#: GDAL's passes of a 3 x 3 mean over what it filled in; each looks one pixel further.
_SMOOTHING = 2
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Progress = Callable[[int, int], None]


def inverse_distance(scene: FloatArray, known: BoolArray, level: Sequence[float]) -> FloatArray:
    """Fill a scene with GDAL's `fillnodata`: known pixels in all directions, weighed by their distance, then smoothed.

    Args:
        scene: reflectance `(band, y, x)`; only its known pixels are looked at.
        known: `(y, x)`.
        level: per band, what is taken where nothing is known within `REACH_PX`.
    """
    colour = np.asarray(level, np.float32)[:, None, None]
    holes, mask = np.where(known, scene, colour).astype(np.float32), known.astype(np.uint8)
    reach = REACH_PX - _SMOOTHING
    filled = [fillnodata(band, mask, max_search_distance=reach, smoothing_iterations=_SMOOTHING) for band in holes]
    return np.stack(filled).astype(np.float32)


def by_filler(kinds: NDArray[np.uint8], fillers: Mapping[PixelKind, Filler]) -> dict[Filler, BoolArray]:
    """Return the pixels `(y, x)` of every filler of gaps.

    Args:
        kinds: `KindCode` of every pixel `(y, x)`, 0 where nothing is needed.
        fillers: of kinds; the model fills those that are left out.
    """
    chosen = {code: fillers.get(code.kind, Filler.DE) for code in KindCode}
    return {name: np.isin(kinds, [code for code, own in chosen.items() if own is name]) for name in GAP_FILLERS}


def without_model(where: Mapping[Filler, BoolArray]) -> BoolArray:
    """Return the pixels `(y, x)` of all fillers that need no model."""
    return np.asarray(np.logical_or.reduce([pixels for name, pixels in where.items() if not name.of_model]))


def filled_around(
    scene: FloatArray, known: BoolArray, level: Sequence[float], where: Mapping[Filler, BoolArray]
) -> Interpolated:
    """Fill pixels from the ground around, each with the filler it is left to; of no value elsewhere.

    Args:
        scene: reflectance `(band, y, x)`.
        known: `(y, x)`, where the ground is known.
        level: one colour, where nothing is near.
        where: pixels `(y, x)` of every filler (`by_filler`).
    """
    smooth = interpolated(scene, known, level)
    sharp, flat = where[Filler.FILLNODATA], where[Filler.FLAT]
    if sharp.any():
        smooth.image[:, sharp] = inverse_distance(scene, known, level)[:, sharp]
    smooth.image[:, flat] = np.asarray(level, np.float32)[:, None]
    return smooth


def intervals_of(table: CalibrationTable | None) -> Intervals | None:
    """Return calibrated factors as the plain numbers that the product's assembly takes."""
    if table is None:
        return None
    around = table.factors.get(Origin.SURROUNDINGS, ())
    return Intervals(table.factors[Origin.OTHER_DATES], table.factors[Origin.MODEL], around)


def measured_options(
    options: RestorationOptions, weights: Path, gaps: GapFilling = GapFilling.VALIDATED
) -> RestorationOptions:
    """Return options with the factors of intervals and the fillers of gaps that a model was measured by."""
    fillers = fillers_of(validation_of(weights)) if gaps is GapFilling.VALIDATED else {}
    return replace(options, intervals=intervals_of(calibration_of(weights)), fillers=fillers)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known about a whole cell before its windows are restored."""

    cell: Cell
    #: Index of the date that is restored.
    target: int
    composite: FittedComposite | None
    #: Median reflectance per band of the ground that is known: of what the target date saw, else of the composite.
    fill: tuple[float, ...]
    #: Whether enough ground is known to say how the rest looks.
    clear_ground: bool
    #: Levels of that ground, for models of the second edition.
    levels: Levels


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored window, and how it came about."""

    layers: ProductLayers
    #: Model tiles run.
    tiles: int
    #: In the model, from pixels in memory to pixels in memory.
    model_seconds: float = 0.0


def prepare(overview: Stack, target: int, cell: Cell, options: RestorationOptions) -> Prepared:
    """Learn what all windows of a cell share.

    Args:
        overview: all dates of the whole cell, at full resolution or thinned.
        target: index of the date.
        cell: the whole cell at full resolution.
        options: composite and sampling.
    """
    composite = fit_composite(options.composite, overview, target, max_days=options.composite_days)
    return prepare_with(composite, overview, target, cell)


def prepare_with(composite: FittedComposite | None, overview: Stack, target: int, cell: Cell) -> Prepared:
    """Return what all windows of a cell share where the composite is known already; arguments as for `prepare`.

    Where the target date saw hardly any ground, as all of a mosaic of many looks, other dates say what it looks like.
    """
    image, known = overview.reflectance(target), is_observed(overview.classes[target])
    if composite is not None and known.mean() < CLEAR_SHARE:
        found = composite.apply(overview, target, where=is_hidden(overview.classes[target]))
        image = best_known(overview, target, found)
        known = np.isfinite(image).all(axis=0) & ~unseen(overview, target, found)
    clear_ground = bool(known.mean() >= CLEAR_SHARE)
    fill = tuple(float(value) for value in np.median(image[:, known], axis=1)) if known.any() else (0.0,) * len(image)
    return Prepared(cell, target, composite, fill, clear_ground, scene_levels(image, ~known))


def needed_window(block: Block, cell: Cell, sampling: Sampling) -> tuple[slice, slice]:
    """Return the rows and columns of a cell that must be read to restore a block of it.

    They hold the model's whole tiles, and the ground that gaps are interpolated from.
    """
    frame = Frame.around(_shape(cell), cell.origin, sampling.tile, sampling.grid)
    rows, columns = ((extent.start, extent.stop) for extent in (block.rows, block.columns))
    tiles = surroundings(rows, columns, frame, sampling.tile, sampling.overlap)
    vertical, horizontal = (
        slice(max(0, min(first, extent.start - REACH_PX)), min(size, max(last, extent.stop + REACH_PX)))
        for (first, last), extent, size in zip(tiles, (block.rows, block.columns), _shape(cell), strict=True)
    )
    return vertical, horizontal


def restore_block(
    stack: Stack,
    offset: tuple[int, int],
    block: Block,
    prepared: Prepared,
    enhancer: Enhancer,
    options: RestorationOptions,
    on_tile: Progress | None = None,
) -> Restored:
    """Restore the hidden pixels of one block.

    Args:
        stack: the dates that `prepared` knows, on a window of the cell that holds `needed_window` of the block.
        offset: row and column of the stack's first pixel in the cell.
        block: what is wanted.
        prepared: what is known about the whole cell.
        enhancer: the model.
        options: composite and sampling.
        on_tile: called with (tiles done, tiles in all).

    Raises:
        InvalidSettings: the stack's bands are not the model's.
    """
    _check_bands(stack, enhancer)
    window = stack.window(_moved(block.rows, -offset[0]), _moved(block.columns, -offset[1]))
    composite = composite_of(window, prepared)
    needed = unseen(window, prepared.target, composite)
    result, asked, seconds = None, None, 0.0
    if needed.any() and options.use_model:
        surroundings = _surroundings(stack, offset, block, prepared, options)
        result, asked, seconds = _fill(surroundings, needed, prepared, enhancer, options, on_tile)
    elif needed.any():
        result = ModelResult(*_empty(needed.shape, len(window.bands)))
    layers = assemble(
        window, prepared.target, composite, result, max_spread=options.max_spread, intervals=options.intervals
    )
    return Restored(layers, asked.tiles if asked else 0, seconds)


def composite_of(window: Stack, prepared: Prepared) -> TemporalComposite | None:
    """Return what other dates say about the hidden pixels of a window; None without a composite."""
    if prepared.composite is None:
        return None
    hidden = is_hidden(window.classes[prepared.target])
    return prepared.composite.apply(window, prepared.target, where=hidden)


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """A block with the pixels around it that its gaps depend on."""

    #: Reflectance `(band, y, x)`, filled in where another date saw the ground.
    scene: FloatArray
    #: `(y, x)`: observed or filled in; below thin cloud or in shadow.
    known: BoolArray
    thin: BoolArray
    #: Row and column of its first pixel in the cell.
    offset: tuple[int, int]
    #: The block in it.
    inside: tuple[slice, slice]


def _surroundings(
    stack: Stack, offset: tuple[int, int], block: Block, prepared: Prepared, options: RestorationOptions
) -> _Surroundings:
    """Return a block with its surroundings."""
    rows, columns = needed_window(block, prepared.cell, options.sampling)
    around = stack.window(_moved(rows, -offset[0]), _moved(columns, -offset[1]))
    # Once more for the block itself: most blocks do not come here, and theirs is the smaller window.
    composite, classes = composite_of(around, prepared), around.classes[prepared.target]
    scene = best_known(around, prepared.target, composite)
    known = np.isfinite(scene).all(axis=0) & ~unseen(around, prepared.target, composite)
    thin = np.isin(classes, (PixelClass.THIN_CLOUD, PixelClass.SHADOW))
    return _Surroundings(scene, known, thin, (rows.start, columns.start), block.within(rows, columns))


def _fill(
    around: _Surroundings,
    needed: BoolArray,
    prepared: Prepared,
    enhancer: Enhancer,
    options: RestorationOptions,
    on_tile: Progress | None,
) -> tuple[ModelResult, Restoration | None, float]:
    """Fill the needed pixels of a block, each kind with its filler; the model runs where a kind is left to it.

    Returns what fills them, the model's answer, and the seconds it took.
    """
    wanted = np.zeros(around.known.shape, bool)
    wanted[around.inside] = needed
    where = by_filler(
        kinds_of_gaps(wanted, around.thin, around.known, clear_ground=prepared.clear_ground), options.fillers
    )
    trivial = without_model(where)[around.inside]
    found, seconds = None, 0.0
    image, weight, spread = _empty(needed.shape, len(around.scene))
    if (needed & ~trivial).any():
        part = Part(_shape(prepared.cell), around.offset, prepared.fill, prepared.levels)
        began = time.monotonic()
        every = restore(
            enhancer,
            around.scene,
            wanted,
            options.sampling,
            on_tile,
            prepared.cell.origin,
            part=part,
            hidden=~around.known,
            gsd_m=prepared.cell.gsd_m,
        )
        found, seconds = every.window(around.inside), time.monotonic() - began
        image, weight, spread = found.image.copy(), found.reference_weight.copy(), found.spread.copy()
        alone = where[Filler.REFERENCE][around.inside]
        image[:, alone], weight[alone] = found.reference[:, alone], 1
    if trivial.any():
        ground = filled_around(around.scene, around.known, prepared.fill, where)
        image[:, trivial] = ground.image[:, *around.inside][:, trivial]
        spread[:, trivial] = ground.spread[:, *around.inside][:, trivial]
    return ModelResult(image, weight, spread, trivial), found, seconds


def restore_date(
    stack: Stack, target: int, enhancer: Enhancer, options: RestorationOptions, on_tile: Progress | None = None
) -> Restored:
    """Restore one date of a cell that is in memory as a whole.

    Args:
        stack: all dates of the cell; bands in the model's order.
        target: index of the date.
        enhancer: the model.
        options: composite and sampling.
        on_tile: called with (tiles done, tiles in all).

    Raises:
        InvalidSettings: the stack's bands are not the model's.
    """
    prepared = prepare(stack, target, stack.cell, options)
    height, width = _shape(stack.cell)
    whole = Block(slice(0, height), slice(0, width))
    return restore_block(stack, (0, 0), whole, prepared, enhancer, options, on_tile)


def _check_bands(stack: Stack, enhancer: Enhancer) -> None:
    if stack.bands != enhancer.card.bands:
        raise InvalidSettings(
            f"Bands {stack.bands} were read, the model restores {enhancer.card.bands}; set bands to these."
        )


def _shape(cell: Cell) -> tuple[int, int]:
    height, width = cell.geobox.shape
    return int(height), int(width)


def _moved(extent: slice, by: int) -> slice:
    return slice(extent.start + by, extent.stop + by)


def _empty(shape: tuple[int, ...], bands: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return image, weight and spread where nothing fills yet: every pixel that needs it is not recoverable."""
    image = np.full((bands, *shape), np.nan, np.float32)
    return image, image[0].copy(), image.copy()
