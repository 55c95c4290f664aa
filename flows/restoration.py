"""Restoring one date of a cell: prior first, then the model where no date saw the ground. No Prefect.

What a restoration learns about the whole cell is learnt once, from a thinned view of it (`prepare`). After that every
window is restored on its own (`restore_window`) with the bytes that the whole cell would give.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from de_model.calibration import CalibrationTable, Origin
from de_model.enhancer import Enhancer
from de_model.inference.engine import Restoration, restore
from de_model.inference.frame import Frame
from de_model.inference.part import Part, surroundings
from de_model.inference.sampling import Sampling
from flows.errors import InvalidSettings
from flows.restoration_options import RestorationOptions
from stac.assembly import Intervals, ModelResult, assemble, best_known, unseen
from stac.blocks import Block
from stac.composite import TemporalPrior
from stac.grid import Cell
from stac.layers import ProductLayers
from stac.masks.classes import is_obscured, is_observed
from stac.priors import FittedPrior, fit_prior
from stac.stack import Stack

BoolArray = NDArray[np.bool_]
Progress = Callable[[int, int], None]


def intervals_of(table: CalibrationTable | None) -> Intervals | None:
    """Return calibrated factors as the plain numbers that the product's assembly takes."""
    return None if table is None else Intervals(table.factors[Origin.OTHER_DATES], table.factors[Origin.MODEL])


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known about a whole cell before its windows are restored."""

    cell: Cell
    #: Index of the date that is restored.
    target: int
    prior: FittedPrior | None
    #: Reflectance per band that the model sees where there is no data.
    fill: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored window, and how it came about."""

    layers: ProductLayers
    #: Model tiles run, and how many of them again in float32 (`Restoration.redone`).
    tiles: int
    redone: int = 0
    #: In the model, from pixels in memory to pixels in memory.
    model_seconds: float = 0.0


def prepare(overview: Stack, target: int, cell: Cell, options: RestorationOptions) -> Prepared:
    """Learn what all windows of a cell share.

    Args:
        overview: all dates of the whole cell, at full resolution or thinned.
        target: index of the date.
        cell: the whole cell at full resolution.
        options: prior and sampling.
    """
    prior = fit_prior(options.prior, overview, target, max_days=options.prior_days)
    return Prepared(cell, target, prior, _ground_level(overview, target))


def _ground_level(overview: Stack, target: int) -> tuple[float, ...]:
    """Return the median reflectance per band of what the target date saw; 0 where it saw nothing."""
    image, observed = overview.reflectance(target), is_observed(overview.classes[target])
    if not observed.any():
        return (0.0,) * len(image)
    return tuple(float(value) for value in np.median(image[:, observed], axis=1))


def needed_window(block: Block, cell: Cell, sampling: Sampling) -> tuple[slice, slice]:
    """Return the rows and columns of a cell that must be read to restore a block of it: the model's whole tiles."""
    frame = Frame.around(_shape(cell), cell.origin, sampling.tile, sampling.grid)
    rows, columns = ((extent.start, extent.stop) for extent in (block.rows, block.columns))
    vertical, horizontal = surroundings(rows, columns, frame, sampling.tile, sampling.overlap)
    return slice(*vertical), slice(*horizontal)


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
        options: prior and sampling.
        on_tile: told (tiles done, tiles in all).

    Raises:
        InvalidSettings: the stack's bands are not the model's.
    """
    _check_bands(stack, enhancer)
    window = stack.window(_moved(block.rows, -offset[0]), _moved(block.columns, -offset[1]))
    prior = prior_of(window, prepared)
    needed = unseen(window, prepared.target, prior)
    found, seconds = None, 0.0
    if needed.any() and options.use_model:
        found, seconds = _ask_model(stack, offset, block, needed, prepared, enhancer, options, on_tile)
    model = _nothing(window) if found is None else ModelResult(found.image, found.reference_weight, found.spread)
    layers = assemble(window, prepared.target, prior, model, max_spread=options.max_spread, intervals=options.intervals)
    return Restored(layers, found.tiles, found.redone, seconds) if found else Restored(layers, 0)


def prior_of(window: Stack, prepared: Prepared) -> TemporalPrior | None:
    """Return what other dates say about the hidden pixels of a window; None without a prior."""
    if prepared.prior is None:
        return None
    hidden = is_obscured(window.classes[prepared.target])
    return prepared.prior.apply(window, prepared.target, where=hidden)


def _ask_model(
    stack: Stack,
    offset: tuple[int, int],
    block: Block,
    needed: BoolArray,
    prepared: Prepared,
    enhancer: Enhancer,
    options: RestorationOptions,
    on_tile: Progress | None,
) -> tuple[Restoration, float]:
    """Return what the model makes of the needed pixels of a block, from it and its surroundings, and its seconds."""
    rows, columns = needed_window(block, prepared.cell, options.sampling)
    around = stack.window(_moved(rows, -offset[0]), _moved(columns, -offset[1]))
    inside, wanted = block.within(rows, columns), np.zeros(around.classes.shape[1:], bool)
    wanted[inside] = needed
    # Once more for the block itself: most blocks do not come here, and theirs is the smaller window.
    scene = best_known(around, prepared.target, prior_of(around, prepared))
    part = Part(_shape(prepared.cell), (rows.start, columns.start), prepared.fill)
    began = time.monotonic()
    found = restore(enhancer, scene, wanted, options.sampling, on_tile, prepared.cell.origin, part=part)
    return found.window(inside), time.monotonic() - began


def restore_date(
    stack: Stack, target: int, enhancer: Enhancer, options: RestorationOptions, on_tile: Progress | None = None
) -> Restored:
    """Restore one date of a cell that is in memory as a whole.

    Args:
        stack: all dates of the cell; bands in the model's order.
        target: index of the date.
        enhancer: the model.
        options: prior and sampling.
        on_tile: told (tiles done, tiles in all).

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


def _nothing(stack: Stack) -> ModelResult:
    """Return the result of a model that knows nothing: every pixel that needs it is not recoverable."""
    image = np.full(stack.dn.shape[1:], np.nan, np.float32)
    return ModelResult(image, image[0], image)
