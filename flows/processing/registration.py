"""Dates of a cell that lie on each other: how far each is shifted, and reading it where the reference lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from flows.settings import RunSettings
from stac.composite.coregistration import Shift, find_shifts, read_registered
from stac.grid.cell import Cell
from stac.load.stack import Stack, read_stack
from stac.masks.classes import is_observed
from stac.search.acquisitions import Acquisition

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


def register_dates(
    dates: Sequence[Acquisition], overview: Stack, reference: int, cell: Cell, settings: RunSettings
) -> RegisteredDates:
    """Find the shifts of the dates of a cell against one of them, which stays where it is.

    Dates that lie too far off are left out, and the overview says so.

    Args:
        dates: in the order of the overview.
        overview: the cell, thinned where it is large.
        reference: index of the date that the others should lie on.
        cell: at full resolution.
        settings: bands and reading.

    Raises:
        UnreadableAsset: pixels cannot be read.
    """
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
