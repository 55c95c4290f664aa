"""Sums over the items below a document: number, box, interval, values, the newest, and a digest.

Every document above an item keeps a sum of what lies below it, and repeats it in the link that leads to it, so that the
sum of a document follows from its links alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from stac.errors import InvalidProduct
from stac.grid.footprint import BBox

#: Field of a node, and of the link that leads to it.
CONTENTS = "unveil:contents"
#: Properties whose values are listed in a collection's summaries.
SUMMARISED = ("platform", "constellation", "grid:code", "proj:code", "gsd")
#: A property with more values is left out of the summaries.
_MOST_VALUES = 100


@dataclass(frozen=True, slots=True, order=True)
class Latest:
    """The newest item by its acquisition, then by its id."""

    datetime: str
    id: str
    #: Path of its thumbnail relative to the collection, empty without one.
    thumbnail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A sum over items."""

    items: int = 0
    #: West, south, east, north in degrees; the whole circle where an item crosses the antimeridian.
    bbox: BBox | None = None
    #: First and last instant, RFC 3339.
    interval: tuple[str, str] | None = None
    #: Sorted values by property, None where there are too many to list.
    summaries: Mapping[str, tuple[Any, ...] | None] = field(default_factory=dict)
    latest: Latest | None = None
    #: Changes with everything that a link below records; two documents with the same digest hold the same items.
    digest: str = ""

    @property
    def document(self) -> dict[str, Any]:
        """The sum as JSON values."""
        values: dict[str, Any] = _JSON.dump_python(self, mode="json", exclude_defaults=True)
        return {"items": self.items} | values


_JSON = TypeAdapter(Contents)


def contents_of(document: Mapping[str, Any]) -> Contents:
    """Return the sum that a node, or a link to one, holds; an empty one where it holds none.

    Raises:
        InvalidProduct: it is damaged.
    """
    try:
        return _JSON.validate_python(document.get(CONTENTS) or {})
    except ValidationError as error:
        name, reason = document.get("id") or document.get("title"), error.errors()[0]["msg"]
        raise InvalidProduct(f"{CONTENTS} of {name} is damaged ({reason}); the next run writes it anew.") from error


def is_sound(link: Mapping[str, Any], node: Mapping[str, Any] | None = None) -> bool:
    """Return whether the sum of a link can be read and is that of the node it leads to, where one is given."""
    try:
        found = contents_of(link)
        return node is None or found == contents_of(node)
    except InvalidProduct:
        return False


def contents_of_item(link: Mapping[str, Any], item_id: str) -> Contents:
    """Return the sum over the one item that a link leads to, from what the link records."""
    first = str(link.get("start_datetime") or link.get("datetime"))
    last = str(link.get("end_datetime") or link.get("datetime"))
    box = _box(link.get("bbox"))
    if box is not None and box[0] > box[2]:
        box = (-180.0, box[1], 180.0, box[3])
    thumbnail = str(link.get("unveil:thumbnail", ""))
    return Contents(
        items=1,
        bbox=box,
        interval=(first, last),
        summaries={name: (link[name],) for name in SUMMARISED if link.get(name) is not None},
        latest=Latest(first, item_id, f"{item_id}/{thumbnail.removeprefix('./')}" if thumbnail else ""),
        digest=_digest([json.dumps(link, sort_keys=True)]),
    )


def total(parts: Iterable[Contents]) -> Contents:
    """Return the sum of sums."""
    found = [part for part in parts if part.items]
    boxes = [part.bbox for part in found if part.bbox is not None]
    intervals = [part.interval for part in found if part.interval is not None]
    return Contents(
        items=sum(part.items for part in found),
        bbox=_around(boxes) if boxes else None,
        interval=(min(i[0] for i in intervals), max(i[1] for i in intervals)) if intervals else None,
        summaries=_values(found),
        latest=max((part.latest for part in found if part.latest is not None), default=None),
        digest=_digest(sorted(part.digest for part in found)) if found else "",
    )


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _values(parts: list[Contents]) -> dict[str, tuple[Any, ...] | None]:
    found: dict[str, tuple[Any, ...] | None] = {}
    for name in SUMMARISED:
        lists = [part.summaries[name] for part in parts if name in part.summaries]
        if not lists:
            continue
        known = [values for values in lists if values is not None]
        every = sorted({value for values in known for value in values})
        found[name] = tuple(every) if len(known) == len(lists) and len(every) <= _MOST_VALUES else None
    return found


def _around(boxes: list[BBox]) -> BBox:
    west, south = min(box[0] for box in boxes), min(box[1] for box in boxes)
    east, north = max(box[2] for box in boxes), max(box[3] for box in boxes)
    return west, south, east, north


def _box(numbers: Any) -> BBox | None:
    """Return a box of two dimensions; heights are left out."""
    if not numbers:
        return None
    half = len(numbers) // 2
    west, south, east, north = (float(numbers[i]) for i in (0, 1, half, half + 1))
    return west, south, east, north
