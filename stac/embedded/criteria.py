"""What a STAC API search asks for, and whether an item answers it. Plain JSON in, plain JSON out."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from stac.errors import InvalidQuery

#: Operators of the STAC API query extension; the item's value comes first.
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
    "in": lambda value, wanted: value in wanted,
    "startsWith": lambda value, wanted: str(value).startswith(wanted),
    "endsWith": lambda value, wanted: str(value).endswith(wanted),
    "contains": lambda value, wanted: wanted in value,
}
#: Members that every answer keeps, so that it stays recognisable as an item.
_ALWAYS = ("type", "stac_version", "id", "collection")
_TOP_LEVEL = (*_ALWAYS, "bbox", "geometry", "links", "assets", "stac_extensions")


@dataclass(frozen=True, slots=True)
class Record:
    """An item held in memory, with what searches look at already decoded."""

    document: Mapping[str, Any]
    instant: datetime
    outline: BaseGeometry


@dataclass(frozen=True, slots=True)
class SortKey:
    """One property to sort by."""

    field: str
    descending: bool = False

    @classmethod
    def parse(cls, text: str) -> SortKey:
        """Read `+properties.datetime` or `-eo:cloud_cover`. A plus may arrive as a blank from a URL."""
        return cls(text.lstrip("+- "), text.startswith("-"))


@dataclass(frozen=True, slots=True)
class Criteria:
    """A search; None does not restrict."""

    collections: Sequence[str] | None = None
    ids: Sequence[str] | None = None
    #: Four or six numbers in degrees; west may exceed east across the antimeridian.
    bbox: Sequence[float] | None = None
    #: In degrees.
    intersects: BaseGeometry | None = None
    start: datetime | None = None
    end: datetime | None = None
    #: Property -> operator -> value.
    query: Mapping[str, Mapping[str, Any]] | None = None
    sort: Sequence[SortKey] = ()


def select(records: Sequence[Record], criteria: Criteria) -> list[Record]:
    """Return the matching records in the order asked for; newest first by default, ties by id.

    Raises:
        InvalidQuery: the box or a property condition is malformed.
    """
    area = _area(criteria)
    found = [record for record in records if _matches(record, criteria, area)]
    found.sort(key=lambda record: str(record.document["id"]))
    for key in reversed(criteria.sort or (SortKey("datetime", descending=True),)):
        found.sort(key=lambda record: _sortable(value_of(record.document, key.field)), reverse=key.descending)
    return found


def _area(criteria: Criteria) -> BaseGeometry | None:
    if criteria.bbox is None:
        return criteria.intersects
    if criteria.intersects is not None:
        raise InvalidQuery("Give either bbox or intersects, not both.")
    numbers = [float(n) for n in criteria.bbox]
    if len(numbers) not in (4, 6):
        raise InvalidQuery(f"A bbox has 4 or 6 numbers, not {len(numbers)}.")
    west, south, east, north = (
        numbers[0],
        numbers[1],
        numbers[len(numbers) // 2],
        numbers[len(numbers) // 2 + 1],
    )
    if south > north:
        raise InvalidQuery(f"The bbox has its south ({south}) above its north ({north}).")
    if west <= east:
        return shapely.box(west, south, east, north)
    return shapely.union(shapely.box(west, south, 180, north), shapely.box(-180, south, east, north))


def _matches(record: Record, criteria: Criteria, area: BaseGeometry | None) -> bool:
    document = record.document
    return (
        (not criteria.collections or document["collection"] in criteria.collections)
        and (not criteria.ids or document["id"] in criteria.ids)
        and (criteria.start is None or record.instant >= criteria.start)
        and (criteria.end is None or record.instant <= criteria.end)
        and (area is None or bool(record.outline.intersects(area)))
        and all(_holds(document, name, tests) for name, tests in (criteria.query or {}).items())
    )


def _holds(document: Mapping[str, Any], name: str, tests: Mapping[str, Any]) -> bool:
    """Tell whether a property passes all its tests; one that is missing or of another type passes none."""
    unknown = sorted(set(tests) - set(_OPERATORS))
    if unknown:
        raise InvalidQuery(f"Query operator {unknown[0]!r} is not known; use one of {', '.join(_OPERATORS)}.")
    value = value_of(document, name)
    if value is None:
        return False
    try:
        return all(_OPERATORS[test](value, wanted) for test, wanted in tests.items())
    except TypeError:
        return False


def value_of(document: Mapping[str, Any], field: str) -> Any:
    """Return a property or top-level member of an item by name, None where it has none."""
    name = field.removeprefix("properties.")
    return document.get(name) if name in _TOP_LEVEL else document.get("properties", {}).get(name)


def _sortable(value: Any) -> tuple[int, float, str]:
    """Return a key that orders numbers, then texts, and puts missing values first."""
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, int | float):
        return 1, float(value), ""
    return 2, 0.0, str(value)


def pick_fields(document: Mapping[str, Any], include: Sequence[str], exclude: Sequence[str]) -> dict[str, Any]:
    """Return an item with only the fields asked for (STAC API fields extension); no names means all."""
    names = [_top(field) for field in include]
    kept = {k: v for k, v in document.items() if not names or k in _ALWAYS or k in {top for top, _ in names}}
    wanted = {below for top, below in names if top == "properties"}
    unwanted = {below for top, below in map(_top, exclude) if top == "properties" and below}
    if "properties" in kept:
        whole = not names or None in wanted
        kept["properties"] = {
            k: v for k, v in kept["properties"].items() if (whole or k in wanted) and k not in unwanted
        }
    dropped = {top for top, below in map(_top, exclude) if below is None} - set(_ALWAYS)
    return {k: v for k, v in kept.items() if k not in dropped}


def _top(field: str) -> tuple[str, str | None]:
    """Split `properties.eo:cloud_cover` into its member and the name below; bare names of properties too."""
    top, dot, below = field.partition(".")
    if dot:
        return top, below
    return (field, None) if field in (*_TOP_LEVEL, "properties") else ("properties", field)
