"""A made-up archive of any length: the sample's scene again and again, at other places and times."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache

import pystac

from flows.loading import load_settings
from flows.operations.backfill import windows_of
from flows.work import ModelRef, WorkUnit, make_plan
from stac.query import Query
from stac.sample_catalog import SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog
from stac.sources import open_source

#: Grid squares of the archive, days between two passes, and days of a window that is planned at once.
SQUARES, REVISIT_DAYS, WINDOW_DAYS = 100, 5, 30
_BEGAN, _HOUR = datetime(2000, 1, 1, tzinfo=UTC), timedelta(hours=10)
_MODEL = ModelRef("unveil-de", "1", "0" * 64, "weights")


def planned(units: int, squares: int = SQUARES) -> Iterator[WorkUnit]:
    """Plan so many units of the archive, window by window as `unveil backfill` does; only one window is in memory."""
    windows = units * REVISIT_DAYS // (squares * WINDOW_DAYS) + 1
    left, end = units, _BEGAN + timedelta(days=windows * WINDOW_DAYS)
    for interval in windows_of(_BEGAN, end, WINDOW_DAYS):
        wanted = load_settings(None, {"datetime": interval, "source": str(sample_catalog())})
        found = make_plan(scenes(wanted.search, squares), wanted, _MODEL).units[:left]
        yield from found
        left -= len(found)
        if not left:
            return


def scenes(query: Query, squares: int = SQUARES) -> list[pystac.Item]:
    """Return the scenes of the archive in an interval, as a search would."""
    revisit = timedelta(days=REVISIT_DAYS)
    first, last = max(0, (query.start - _BEGAN) // revisit), (query.end - _BEGAN) // revisit
    every = (_scene(number, square) for number in range(first, last + 1) for square in range(squares))
    return [item for item in every if item.datetime is not None and query.contains(item.datetime)]


def _scene(number: int, square: int) -> pystac.Item:
    """Return a scene that shares its assets with all others: planning reads them only."""
    pattern, when = _pattern(), _BEGAN + _HOUR + timedelta(days=number * REVISIT_DAYS, seconds=square)
    code = {"grid:code": f"MGRS-{square % 60 + 1:02d}T{square:03d}"}
    return pystac.Item(
        id=f"S2A_{square:05d}_{when:%Y%m%d}_0_L2A",
        geometry=pattern.geometry,
        bbox=pattern.bbox,
        datetime=when,
        properties=pattern.properties | code,
        assets=pattern.assets,
    )


@cache
def _pattern() -> pystac.Item:
    """Return a cloudy item of the sample."""
    query = Query.parse(SAMPLE_COLLECTION, None, SAMPLE_INTERVAL)
    items = open_source(str(sample_catalog())).search(query)
    return next(item for item in items if 5 <= item.properties["eo:cloud_cover"] <= 80)
