"""What to search for, and what a search returns: items, and every item left out with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Protocol

import pystac
import shapely
from shapely.geometry.base import BaseGeometry

from stac.errors import InvalidItem, InvalidQuery, StacError
from stac.grid.cell import declared_projection, grid_code
from stac.grid.footprint import BBox, footprint_of, normalise
from stac.search.acquisitions import cloud_cover, instant_of, platform_of, rank
from stac.search.hrefs import checked_id, resolve
from stac.search.providers import Archive

#: A wider box across the antimeridian is far more likely a west and east that were swapped, degrees.
_WIDEST_ACROSS = 180


#: The interval that leaves nothing out.
ALL_DATES = "0001-01-01/9999-12-31"
#: No instant lies outside.
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Query:
    """A collection, an area and an interval."""

    collection: str
    #: West, south, east, north in degrees, west above east across the antimeridian (RFC 7946, section 5.2);
    #: None searches everywhere.
    bbox: BBox | None
    #: Both ends are part of the interval; in UTC.
    start: datetime
    end: datetime

    @classmethod
    def parse(cls, collection: str, bbox: Sequence[float] | str | None, interval: str) -> Query:
        """Check and convert what a person wrote.

        Args:
            collection: collection id.
            bbox: four numbers, or `"west,south,east,north"`.
            interval: `2023-08-10/2023-08-20`, `2023-08-10/..` (until today), one date, or RFC 3339 instants with a
                time zone.

        Raises:
            InvalidQuery: the area or the interval makes no sense.
        """
        if not collection.strip():
            raise InvalidQuery("The collection is empty; name one with --collection.")
        start, end = _interval(interval)
        return cls(collection, None if bbox is None else _bbox(bbox), start, end)

    def widened(self, days: int) -> Query:
        """Return the query with `days` more on both sides of the interval."""
        try:
            more = timedelta(days=days)
        except OverflowError:
            more = _LAST - _FIRST
        return replace(self, start=_moved(self.start, -more), end=_moved(self.end, more))

    @property
    def interval(self) -> str:
        """The interval in whole seconds, as RFC 3339 instants in UTC joined by a slash; its end is rounded up."""
        end = _moved(self.end, timedelta(seconds=1)) if self.end.microsecond else self.end
        ends = (t.astimezone(UTC).replace(microsecond=0, tzinfo=None) for t in (self.start, end))
        return "/".join(f"{t.isoformat()}Z" for t in ends)

    @property
    def boxes(self) -> tuple[BBox | None, ...]:
        """The box in parts whose west lies below their east: two across the antimeridian, else one."""
        if self.bbox is None:
            return (None,)
        west, south, east, north = self.bbox
        if west < east:
            return (self.bbox,)
        return (west, south, 180.0, north), (-180.0, south, east, north)

    def contains(self, instant: datetime) -> bool:
        """Return whether a timezone-aware instant lies within the interval."""
        return self.start <= instant <= self.end

    def touches(self, footprint: BaseGeometry) -> bool:
        """Return whether a footprint, its longitudes in -180..180, touches the box."""
        return any(box is None or bool(footprint.intersects(shapely.box(*box))) for box in self.boxes)


def _moved(instant: datetime, by: timedelta) -> datetime:
    """Return an instant so much away, within the years that there are dates for."""
    try:
        return instant + by
    except OverflowError:
        return _FIRST if by < timedelta() else _LAST


def _bbox(bbox: Sequence[float] | str) -> BBox:
    try:
        west, south, east, north = (float(n) for n in (bbox.split(",") if isinstance(bbox, str) else bbox))
    except (TypeError, ValueError) as error:
        raise InvalidQuery(f"Box {bbox!r} is not four numbers: give west,south,east,north in degrees.") from error
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= 90 and -90 <= north <= 90):
        raise InvalidQuery(f"Box {bbox!r} leaves the world; longitudes lie in -180..180, latitudes in -90..90.")
    if west == east or south >= north or west == 180 or east == -180:
        raise InvalidQuery(f"Box {bbox!r} has no area: west must be less than east and south less than north.")
    if west - east > 0 and 360 + east - west > _WIDEST_ACROSS:
        raise InvalidQuery(
            f"Box {bbox!r} has its west above its east, so it crosses the antimeridian and spans "
            f"{360 + east - west:g} degrees; swap west and east if you meant the small box."
        )
    return west, south, east, north


def _interval(text: str) -> tuple[datetime, datetime]:
    parts = text.split("/")
    if len(parts) > 2 or not all(parts):
        raise InvalidQuery(f"Interval {text!r} is not understood; write 2023-08-10/2023-08-20 or one date.")
    last = datetime.now(UTC).date().isoformat() if parts[-1] == ".." else parts[-1]
    start, end = _instant(parts[0], last=False), _instant(last, last=True)
    if start > end:
        raise InvalidQuery(f"Interval {text!r} ends before it begins; swap the two dates.")
    return start, end


def _instant(text: str, *, last: bool) -> datetime:
    """Return the instant; a bare date means its first or its last microsecond, in UTC."""
    try:
        if len(text) == len("2023-08-10"):
            return datetime.combine(date.fromisoformat(text), time.max if last else time(), UTC)
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidQuery(f"Date {text!r} is not understood; write 2023-08-10 or 2023-08-10T10:00:00Z.") from error
    if instant.tzinfo is None:
        raise InvalidQuery(f"Date {text!r} has no time zone; add Z for UTC.")
    try:
        return instant.astimezone(UTC)
    except OverflowError as error:
        raise InvalidQuery(f"Date {text!r} lies outside the years 1 to 9999 in UTC.") from error


def item_from(document: dict[str, Any], href: str) -> pystac.Item:
    """Return an item with absolute asset hrefs, all of them checked, and longitudes in -180..180.

    Args:
        document: the item's JSON.
        href: absolute path or URL the document came from.

    Raises:
        InvalidItem: the document is not a STAC item, or lacks assets, a footprint or a single acquisition time.
        UnsafeHref: its id or one of its assets names what it may not.
        Exception: whatever odd fields provoke; `one_item` contains it.
    """
    name = checked_id(document.get("id"))
    try:
        item = pystac.Item.from_dict(document)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise InvalidItem(f"Item {name} ({href}) is not a valid STAC item ({reason}).") from error
    for asset in item.assets.values():
        asset.href = resolve(href, asset.href)
    if not item.assets:
        raise InvalidItem(f"Item {name} has no assets, so there is nothing to read.")
    normalise(item)
    # All that scenes are compared by, so that what is odd about one shows here.
    for ask in (instant_of, platform_of, cloud_cover, grid_code, declared_projection, rank, footprint_of):
        ask(item)
    # Links are not resolved: nothing may be fetched behind the caller's back, as pystac does with the root of an item
    # when it is asked for the href of any link.
    item.remove_links("root")
    item.set_self_href(None)
    item.set_self_href(href)
    return item


def with_band_names(item: pystac.Item, archive: Archive) -> pystac.Item:
    """Return the item with its assets under our band names where the archive calls them otherwise."""
    keys = {key: name for name, key in archive.bands.items() if name not in item.assets}
    item.assets = {keys.get(key, key): asset for key, asset in item.assets.items()}
    return item


@dataclass(frozen=True, slots=True)
class Skipped:
    """An item that a search passed over."""

    #: Empty where the document does not say.
    item_id: str
    #: One sentence.
    reason: str
    #: Id of the item that stands for the same scene, so that none of its ground is left out; empty without one.
    superseded_by: str = ""


class Source(Protocol):
    """A place that lists scenes.

    Opening one, and every method, may raise `SourceUnavailable`, `AccessRefused` or `UnreadableCatalog`, and
    `InvalidQuery` where a collection does not exist or far too much matches.
    """

    #: Items that the last search passed over.
    skipped: list[Skipped]

    def describe(self) -> str:
        """Return the source in a few words, for people."""
        ...

    def collections(self) -> list[str]:
        """Return the ids of all collections."""
        ...

    def collection(self, collection_id: str) -> dict[str, Any]:
        """Return the JSON of a collection: its licence, providers and keywords."""
        ...

    def search(self, query: Query) -> list[pystac.Item]:
        """Return all matching items, sorted by time and id, with absolute hrefs."""
        ...


@contextmanager
def one_item(item_id: str) -> Iterator[None]:
    """Turn every exception but ours into `InvalidItem`, so that an odd item never stops what is done to others.

    Raises:
        InvalidItem: the item has something that was not foreseen; type and text of the exception are named.
        StacError: as raised inside.
    """
    try:
        yield
    except (StacError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:_LONGEST]
        raise InvalidItem(
            f"Item {item_id} cannot be used ({type(error).__name__}: {reason}); correct the item or leave it out."
        ) from error
