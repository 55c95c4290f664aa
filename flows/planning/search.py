"""Find the scenes of a run, and group them by cell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pystac
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from flows.errors import InvalidSettings
from flows.settings import RunSettings
from flows.settings.fields import CommaSeparated, named_dates
from stac.errors import EmptySearch, InvalidQuery
from stac.grid.cell import cell_of, grid_code
from stac.io.secrets import redact, without_secret
from stac.load.stack import Stack, read_stack
from stac.masks.classes import PixelClass, is_hidden
from stac.search.acquisitions import Acquisition, group_passes
from stac.search.opening import open_source
from stac.search.providers import provider_of
from stac.search.source import ALL_DATES, Query, Source
from stac.search.static import SAMPLE, SAMPLE_COLLECTION, StaticSource

#: Side of a window that is looked at alone, pixels.
_WINDOW = 128
#: A date is cloudy when this share of its valid pixels is hidden, and clear when this share is seen.
_CLOUDY_SHARE, _CLEAR_SHARE = (0.15, 0.95), 0.85


class SceneSet(BaseModel):
    """All scenes of some grid squares in an interval."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    cells: Annotated[tuple[str, ...], CommaSeparated] = Field(
        default=(), description="grid squares, e.g. MGRS-33TWM", json_schema_extra={"option": "--cell"}
    )
    source: str = Field(
        default=SAMPLE,
        description="`sample`, a provider, the URL of a STAC API, or the path or URL of a static catalog",
    )
    collection: str = Field(default=SAMPLE_COLLECTION, description="collection to search")
    datetime: str | None = Field(
        default=None,
        description="interval of the scenes; left out, all of a static catalog, and those that the sample is about",
    )
    bbox: str | None = Field(
        default=None,
        description="the part of the squares that is used: west,south,east,north in degrees; all when left out",
    )
    bands: Annotated[tuple[str, ...], CommaSeparated] = Field(
        default=("blue", "green", "red", "nir"), description="bands by common name"
    )

    @property
    def title(self) -> str:
        """The scenes in words."""
        return f"{self.collection} {self.shown_dates}, cells {', '.join(self.cells)}"

    @property
    def dates(self) -> str | None:
        """The dates that were named, or those of the sample; None where all are wanted."""
        return named_dates(self.source, self.datetime)

    @property
    def shown_dates(self) -> str:
        """The dates for people."""
        return self.dates or "all dates"

    @property
    def query(self) -> Query:
        """What to search for; raises `InvalidQuery` when the area or the interval makes no sense."""
        return Query.parse(self.collection, self.bbox, self.dates or ALL_DATES)


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
    for dates in dates_of(scenes):
        cell = cell_of(dates[0].items[0], scenes.bands[0], scenes.query.bbox)
        yield read_stack(dates, cell, scenes.bands), dates


def dates_of(scenes: SceneSet) -> Iterator[list[Acquisition]]:
    """Yield all dates of every cell, as the search finds them; no pixel is read.

    Raises:
        InvalidSettings: a cell has no scenes in the interval.
        InvalidQuery: an API is asked without dates.
    """
    source = _opened(scenes.source, dated=scenes.dates is not None)
    items = source.search(scenes.query)
    for code in scenes.cells:
        chosen = [item for item in items if grid_code(item) == code]
        if not chosen:
            known = ", ".join(sorted({grid_code(item) for item in items})) or "none"
            raise InvalidSettings(f"No scene of cell {code} in {scenes.shown_dates}; cells found: {known}.")
        yield group_passes(chosen)


def cloudy_and_clear(stack: Stack) -> tuple[list[int], list[int]]:
    """Return the indices of the dates that are cloudy in part, and of those that are clear."""
    valid = [classes != PixelClass.NODATA for classes in stack.classes]
    hidden = [is_hidden(c)[v].mean() if v.any() else 0.0 for c, v in zip(stack.classes, valid, strict=True)]
    cloudy = [i for i, share in enumerate(hidden) if _CLOUDY_SHARE[0] <= share <= _CLOUDY_SHARE[1]]
    clear = [i for i, share in enumerate(hidden) if valid[i].any() and share <= 1 - _CLEAR_SHARE]
    return cloudy, clear


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


def find_scenes(settings: RunSettings) -> tuple[list[pystac.Item], Source]:
    """Return all scenes of `settings.search`, and the source they are from.

    Raises:
        EmptySearch: the search matched nothing; items that it passed over are in `skipped` of the source.
        InvalidQuery: the collection does not exist, area or interval make no sense, or an API is asked without dates.
    """
    source = _opened(settings.source, settings.retry_policy, settings.access, dated=settings.dates is not None)
    items = source.search(settings.search)
    if not (items or source.skipped):
        area = f" within {settings.bbox}" if settings.bbox else ""
        raise EmptySearch(
            f"{source.describe()} has no scene of {settings.collection} in {settings.shown_dates}{area}; "
            "widen --datetime or move --bbox."
        )
    return items, source


def _opened(address: str, *how: Any, dated: bool) -> Source:
    """Open a source; a provider that needs dates is not even asked without them."""
    source = open_source(address, *how) if dated or provider_of(address) is None else None
    if source is None or not (dated or isinstance(source, StaticSource)):
        raise InvalidQuery(
            f"{redact(without_secret(address))} is an API, which is not searched without dates; name the first and the "
            "last with --datetime, e.g. 2023-08-01/2023-08-31."
        )
    return source
