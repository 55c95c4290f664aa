"""Whole stacks of a catalog's cells, for training and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows.errors import InvalidSettings
from stac.grid.cell import cell_of, grid_code
from stac.load.stack import Stack, read_stack
from stac.search.acquisitions import Acquisition, group_passes
from stac.search.opening import open_source
from stac.search.query import Query
from stac.search.static import SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog

#: Side of a window that is looked at alone, pixels.
_WINDOW = 128


@dataclass(frozen=True, slots=True)
class SceneSet:
    """All scenes of some grid squares in an interval."""

    #: Grid codes, e.g. `MGRS-33TWM`.
    cells: tuple[str, ...]
    source: str = str(sample_catalog())
    collection: str = SAMPLE_COLLECTION
    interval: str = SAMPLE_INTERVAL
    bands: tuple[str, ...] = ("blue", "green", "red", "nir")


def stacks_of(scenes: SceneSet) -> Iterator[Stack]:
    """Yield the stack of all dates of every cell.

    Raises:
        InvalidSettings: a cell has no scenes in the interval.
    """
    for stack, _ in dated_stacks_of(scenes):
        yield stack


def dated_stacks_of(scenes: SceneSet) -> Iterator[tuple[Stack, list[Acquisition]]]:
    """Yield the stack of all dates of every cell, and the dates in its order.

    Raises:
        InvalidSettings: a cell has no scenes in the interval.
    """
    items = open_source(scenes.source).search(Query.parse(scenes.collection, None, scenes.interval))
    for code in scenes.cells:
        chosen = [item for item in items if grid_code(item) == code]
        if not chosen:
            known = ", ".join(sorted({grid_code(item) for item in items})) or "none"
            raise InvalidSettings(f"No scene of cell {code} in {scenes.interval}; cells found: {known}.")
        dates = group_passes(chosen)
        yield read_stack(dates, cell_of(chosen[0], scenes.bands[0]), scenes.bands), dates


def fullest_window(
    where: NDArray[np.bool_], side: int = _WINDOW, beside: NDArray[np.bool_] | None = None
) -> tuple[slice, slice]:
    """Return the rows and columns of the window of so many pixels with the most chosen ones; the first of equals.

    Args:
        where: the chosen ones `(y, x)`.
        side: of the window, pixels.
        beside: what must be there, too, `(y, x)`: the product of both counts decides.
    """
    height, width = where.shape
    best, found = -1, (slice(0, side), slice(0, side))
    for row in range(0, max(1, height - side + 1), max(1, side // 2)):
        for column in range(0, max(1, width - side + 1), max(1, side // 2)):
            at = (slice(row, row + side), slice(column, column + side))
            count = int(where[at].sum()) * (1 if beside is None else 1 + int(beside[at].sum()))
            if count > best:
                best, found = count, at
    return found
