"""What a product is made of: the dates of a cell on each other, what is known about the whole cell, and how to restore.

The first date is the scene that is restored; of a mosaic it is the composite of all dates of its period.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pystac

from flows.planning.workunit import ModelRef, MosaicUnit, Unit, WorkUnit, unit_cell, unit_dates
from flows.processing.blocks import Reader
from flows.processing.publishing import blocks_folder
from flows.processing.restore import Prepared, measured_options, prepare, prepare_with
from flows.settings import RunSettings
from flows.settings.restoring import RestorationOptions
from stac.composite.coregistration import Shift, find_shifts, read_registered
from stac.composite.period import PeriodComposite, mosaic_stack
from stac.grid.cell import Cell
from stac.load.stack import Stack, read_stack
from stac.masks.classes import PixelClass, is_observed
from stac.product.block_store import BlockStore
from stac.search.acquisitions import Acquisition

#: Looks of all dates that are read at once, pixels times dates: bounds the memory of a year of dates.
_MOST_LOOKS = 24_000_000
_LEAST_SIDE = 128
#: Share of a cell that any date must have seen: from less all of it would be invented.
_LEAST_SEEN = 0.05
#: Side of the window in which shifts of a large cell are looked for, pixels.
_WINDOW_PX = 512


@dataclass(frozen=True, slots=True)
class RegisteredDates:
    """The dates of a cell that can be used, each read where the ground of the reference lies."""

    dates: tuple[Acquisition, ...]
    #: The cell, thinned where it is large.
    overview: Stack
    #: Of every date whose shift is certain, by id, those that are left out included.
    shifts: Mapping[str, Shift]
    settings: RunSettings

    def read(self, window: Cell) -> Stack:
        """Return all dates of a window."""
        corrected = {date.id: self.shifts[date.id] for date in self.dates if date.id in self.shifts}
        return read_registered(_reader(self.dates, self.settings), window, corrected)

    @property
    def document(self) -> dict[str, Any]:
        """Shifts in pixels as JSON values, for `metadata.json`."""
        return {
            name: asdict(shift) | {"corrected": shift.matters and not shift.too_far}
            for name, shift in self.shifts.items()
        }


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the blocks of a product share."""

    unit: Unit
    #: Of the run, fitted to the model.
    settings: RunSettings
    model: ModelRef
    registered: RegisteredDates
    #: Index of the scene that is restored, of the date whose radiometry a mosaic has.
    first: int
    prepared: Prepared
    options: RestorationOptions
    #: Reads a window as `prepared` knows it.
    read: Reader
    #: Sides of blocks, and of the windows that are read at once, pixels.
    side: int
    region_px: int | None = None
    #: Where blocks are kept; None keeps none.
    store: BlockStore | None = None

    @property
    def chosen(self) -> dict[str, Any]:
        """How dates become one, as JSON values; nothing for a scene."""
        if not isinstance(self.unit, MosaicUnit):
            return {}
        composite = self.unit.composite
        return {
            "method": str(composite.method),
            "quantile": composite.quantile,
            "nbar": bool(seen_from_above(composite)),
        }

    @property
    def scenes(self) -> list[pystac.Item]:
        """The scenes of all dates, those of the first one first."""
        dates = self.registered.dates
        ordered = (dates[self.first], *(date for date in dates if date is not dates[self.first]))
        return [item for date in ordered for item in date.items]


def seen_from_above(composite: PeriodComposite) -> list[str]:
    """Return the ids of dates whose reflectance is changed to that of a view from straight above."""
    return [fit.date_id for fit in composite.radiometry.dates if fit.view is not None]


def inputs_of(unit: Unit, items: Mapping[str, pystac.Item], settings: RunSettings, model: ModelRef) -> Inputs:
    """Read a thinned view of a unit's dates, and return what its blocks are made of.

    Raises:
        InvalidInput: the target, or every date, cannot be used.
        UnreadableAsset: pixels cannot be read.
        DiskFull, NotWritable: the folder of blocks cannot be written.
    """
    settings = settings.fitted_to(model.sampling)
    cell, dates = unit_cell(unit, items, settings), unit_dates(unit, items)
    if isinstance(unit, MosaicUnit):
        return _mosaic(unit, dates, cell, settings, model)
    return _scene(unit, dates, cell, settings, model)


def _scene(unit: WorkUnit, dates: Sequence[Acquisition], cell: Cell, settings: RunSettings, model: ModelRef) -> Inputs:
    identity = f"{unit.work_id} by {settings.block} px"
    store = BlockStore(blocks_folder(unit.work_id, settings), cell, settings.bands, identity)
    registered = _register_dates(dates, _overview(unit, dates, cell, settings, store), 0, cell, settings)
    options = _options(settings, model)
    prepared = prepare(registered.overview, 0, cell, options)
    read, side = registered.read, settings.block
    return Inputs(unit, settings, model, registered, 0, prepared, options, read, side, store=store)


def _mosaic(
    unit: MosaicUnit, dates: Sequence[Acquisition], cell: Cell, settings: RunSettings, model: ModelRef
) -> Inputs:
    composite, reference = unit.composite, unit.composite.radiometry.reference

    def first_of_all(stack: Stack) -> Stack:
        return mosaic_stack(stack, reference, composite.method)

    overview = read_stack(dates, cell, settings.bands, settings.reading.overview_of(cell), required=())
    registered = _register_dates(dates, overview, _clearest(overview, reference), cell, settings)
    overview = registered.overview
    options = _options(settings, model)
    options = replace(options, use_model=settings.use_model and _seen_share(overview) >= _LEAST_SEEN)
    prepared = prepare_with(composite, first_of_all(overview), 0, cell)
    first = overview.item_ids.index(reference) if reference in overview.item_ids else 0
    side = settings.block
    while side > _LEAST_SIDE and side * side * len(registered.dates) > _MOST_LOOKS:
        side //= 2
    return Inputs(
        unit,
        settings,
        model,
        registered,
        first,
        prepared,
        options,
        lambda window: first_of_all(registered.read(window)),
        side,
        region_px=side,
    )


def _overview(
    unit: WorkUnit, every: Sequence[Acquisition], cell: Cell, settings: RunSettings, store: BlockStore
) -> Stack:
    """Return a thinned view of all dates, the target first; dates that cannot be read are left out for good."""
    before = store.saved_record()
    if before is not None:
        known = [date for date in every if date.id in before["dates"]]
        found = read_stack(known, cell, settings.bands, settings.reading.overview_of(cell))
        return replace(found, dropped=tuple(before["dropped"]))
    found = read_stack(every, cell, settings.bands, settings.reading.overview_of(cell), required={unit.target_id})
    store.save_record({"dates": list(found.item_ids), "dropped": list(found.dropped)})
    return found


def _register_dates(
    every: Sequence[Acquisition], overview: Stack, reference: int, cell: Cell, settings: RunSettings
) -> RegisteredDates:
    """Find the shifts of the dates of a cell against one of them, which stays where it is.

    Dates that lie too far off are left out, and the overview says so.

    Args:
        every: at least those of the overview.
        overview: the cell, thinned where it is large.
        reference: index of the date that the others should lie on.
        cell: at full resolution.
        settings: bands and reading.

    Raises:
        UnreadableAsset: pixels cannot be read.
    """
    by_id = {date.id: date for date in every}
    dates = [by_id[name] for name in overview.item_ids]
    whole = overview.cell.pixels == cell.pixels
    looked_at = overview if whole else _reader(dates, settings)(_best_window(overview, reference, cell))
    shifts = find_shifts(looked_at, reference)
    if whole and any(shift.matters for shift in shifts.values()):
        dropped = overview.dropped
        overview = replace(read_registered(_reader(dates, settings), cell, shifts), dropped=dropped)
    far = {name: shift for name, shift in shifts.items() if shift.too_far}
    left_out = (f"Date {n} lies {shift.size:.1f} pixels off the reference; it is not used." for n, shift in far.items())
    overview = replace(overview.without(far), dropped=(*overview.dropped, *left_out))
    return RegisteredDates(tuple(date for date in dates if date.id not in far), overview, shifts, settings)


def _reader(dates: Sequence[Acquisition], settings: RunSettings) -> partial[Stack]:
    return partial(read_stack, dates, bands=settings.bands, options=settings.reading)


def _best_window(overview: Stack, reference: int, cell: Cell) -> Cell:
    """Return the window of a large cell that the reference and the other dates see best."""
    clear = is_observed(overview.classes)
    factor = round(overview.cell.gsd_m / cell.gsd_m)
    side = max(1, _WINDOW_PX // factor)
    seen = clear.mean(axis=0) * clear[reference]
    corners = [(y, x) for y in range(0, seen.shape[0], side) for x in range(0, seen.shape[1], side)]
    y, x = max(corners, key=lambda corner: float(seen[corner[0] :, corner[1] :][:side, :side].sum()))
    return cell.window(*(slice(at * factor, at * factor + _WINDOW_PX) for at in (y, x)))


def _options(settings: RunSettings, model: ModelRef) -> RestorationOptions:
    """Return how a run restores: with the factors of intervals and the fillers that its model was measured by."""
    return measured_options(settings.restoration, Path(model.weights), settings.gaps)


def _clearest(overview: Stack, reference: str) -> int:
    """Return the index of the reference, of the clearest date where a cell does not have it."""
    if reference in overview.item_ids:
        return overview.index_of(reference)
    return int(is_observed(overview.classes).sum(axis=(1, 2)).argmax())


def _seen_share(overview: Stack) -> float:
    """Return the share of the ground with data that any date saw clear; 0 without data."""
    data = (overview.classes != PixelClass.NODATA).any(axis=0)
    seen = is_observed(overview.classes).any(axis=0)
    return float(seen.sum() / max(int(data.sum()), 1))
