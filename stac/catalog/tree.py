"""The documents between a collection and its items: catalogs by year, month, day and page, none with many children.

Each holds sums over the items below it: number, box, interval, values, the newest, and a digest.
"""

from __future__ import annotations

import calendar
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from stac.errors import InvalidProduct
from stac.grid.footprint import BBox

Document = dict[str, Any]
Link = dict[str, Any]
#: Called with what is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]

#: Field of a node, and of the link that leads to it.
CONTENTS = "unveil:contents"
#: Properties whose values are listed in a collection's summaries.
SUMMARISED = ("platform", "constellation", "grid:code", "proj:code", "gsd")
#: A property with more values is left out of the summaries.
_MOST_VALUES = 100
#: Folder of the nodes in a collection; it cannot be the id of an item (`stac.catalog.validation.check_id`).
DATES = "_dates"
#: Folder of a collection's GeoParquet files, one a month; neither can it.
MIRRORS = "_items"
#: Items that a node of each depth holds itself: with the 31 days of a month, or the pages of a day, some 100 children.
_ROOM = {2: 69, 3: 50, 4: 100}
_PLACE = re.compile(rf"(?:^|/){DATES}/(\d{{4}}(?:/\d\d(?:/\d\d(?:/p\d{{3,}})?)?)?)/catalog\.json$")
_ITEM = re.compile(r"(?:^|/)([^/]+)/\1\.json$")
#: Properties of an item that its link repeats: what a run, and the sums above, need to know.
_RECORDED = (
    "datetime", "start_datetime", "end_datetime", "unveil:work_id", "unveil:gate", "unveil:gate_limits", "version",
    "deprecated", "platform", "constellation", "grid:code", "proj:code", "gsd",
)  # fmt: skip
_JSON, _GEOJSON = "application/json", "application/geo+json"
STAC_VERSION = "1.1.0"


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
        values: dict[str, Any] = _CONTENTS_JSON.dump_python(self, mode="json", exclude_defaults=True)
        return {"items": self.items} | values


_CONTENTS_JSON = TypeAdapter(Contents)


def contents_of(document: Mapping[str, Any]) -> Contents:
    """Return the sum that a node, or a link to one, holds; an empty one where it holds none.

    Raises:
        InvalidProduct: it is damaged.
    """
    try:
        return _CONTENTS_JSON.validate_python(document.get(CONTENTS) or {})
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


def item_name(collection_id: str, item_id: str) -> str:
    """Return the path of an item's document relative to the catalog's root."""
    return f"{collection_id}/{item_id}/{item_id}.json"


def files_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the size of every file that an item names, bytes, by path relative to its folder; None where unsaid."""
    return {str(asset["href"]).removeprefix("./"): asset.get("file:size") for asset in item["assets"].values()}


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """A node by its path below `_dates`: ("2023",), ("2023", "08"), ("2023", "08", "16"), or with a page, "p002"."""

    path: tuple[str, ...]

    @property
    def name(self) -> str:
        """Path of its document relative to the collection."""
        return "/".join((DATES, *self.path, "catalog.json"))

    @property
    def above(self) -> Node | None:
        """The node that links to it, None for a year: that is the collection's."""
        return Node(self.path[:-1]) if len(self.path) > 1 else None

    @property
    def way(self) -> tuple[Node, ...]:
        """The nodes that lead to it from the collection, the year first, and itself."""
        return tuple(Node(self.path[:depth]) for depth in range(1, len(self.path) + 1))

    @property
    def period(self) -> str:
        """Its part of the calendar: `2023-08`."""
        return "-".join(self.path)

    @property
    def title(self) -> str:
        """What people call it."""
        year, month, day, page = (*self.path, "", "", "", "")[:4]
        if not month:
            return year
        named = f"{calendar.month_name[int(month)]} {year}"
        if not day:
            return named
        return f"{int(day)} {named}" + (f", part {int(page[1:])}" if page else "")

    @property
    def room(self) -> int:
        """How many items it holds itself."""
        return _ROOM[len(self.path)]

    @property
    def up(self) -> str:
        """The collection's folder, relative to its document."""
        return "/".join([".."] * (len(self.path) + 1))


def month_of(document: Mapping[str, Any]) -> Node:
    """Return the month an item belongs to.

    Raises:
        InvalidProduct: the item has no date.
    """
    return Node(_date_of(document)[:2])


def day_of(document: Mapping[str, Any]) -> Node:
    """Return the day an item belongs to.

    Raises:
        InvalidProduct: the item has no date.
    """
    return Node(_date_of(document))


def page_of(day: Node, number: int) -> Node:
    """Return a page of a day, counted from 1."""
    return Node((*day.path, f"p{number:03d}"))


def _date_of(document: Mapping[str, Any]) -> tuple[str, str, str]:
    properties = document.get("properties", {})
    text = str(properties.get("datetime") or properties.get("start_datetime"))
    found = re.match(r"(\d{4})-(0[1-9]|1[0-2])-(\d\d)", text)
    if found is None:
        raise InvalidProduct(f"Item {document.get('id')} has no date, so it has no place in the catalog.")
    return found[1], found[2], found[3]


def node_at(href: str) -> Node | None:
    """Return the node that an href leads to, None where it leads elsewhere."""
    found = None if "://" in href else _PLACE.search(href)
    return Node(tuple(found[1].split("/"))) if found else None


def node_of(item: Mapping[str, Any]) -> Node | None:
    """Return the node that an item names as its parent, None where it names none."""
    parents = [str(link.get("href")) for link in item.get("links", []) if link.get("rel") == "parent"]
    return node_at(parents[0]) if parents else None


def placed(item: Mapping[str, Any], node: Node) -> dict[str, Any]:
    """Return an item that names a node as its parent."""
    parent = {"rel": "parent", "href": f"../{node.name}", "type": _JSON, "title": node.title}
    root, *others = [link for link in item["links"] if link.get("rel") != "parent"] or [{}]
    return {**item, "links": [root, parent, *others]}


def item_id_at(href: str) -> str | None:
    """Return the id of the item of this catalog that an href leads to, None where it leads elsewhere."""
    found = None if "://" in href else _ITEM.search(href)
    return found[1] if found else None


def all_links(document: Mapping[str, Any] | None) -> list[Link]:
    """Return the links of a document that somebody else may have written."""
    links = (document or {}).get("links")
    return [link for link in links if isinstance(link, dict)] if isinstance(links, list) else []


def links_of(document: Mapping[str, Any] | None, rel: str) -> list[Link]:
    """Return the links of one kind."""
    return [link for link in all_links(document) if link.get("rel") == rel]


def items_in(document: Mapping[str, Any] | None) -> dict[str, Link]:
    """Return the links to items of this catalog by item id."""
    found = ((item_id_at(str(link.get("href"))), link) for link in links_of(document, "item"))
    return {item_id: link for item_id, link in found if item_id is not None}


def nodes_in(document: Mapping[str, Any] | None, above: Node | None) -> dict[Node, Link]:
    """Return the links to nodes by node; `above` is the node the document is of, None for the collection."""
    folder = f"{DATES}/{'/'.join(above.path)}/" if above else ""
    found = ((node_at(folder + str(link.get("href")).removeprefix("./")), link) for link in links_of(document, "child"))
    return {node: link for node, link in found if node is not None and node.above == above}


def foreign_links(document: Mapping[str, Any] | None, above: Node | None) -> list[Link]:
    """Return the links that lead to neither items of this catalog, nor nodes, nor upwards; arguments as `nodes_in`."""
    ours = [*items_in(document).values(), *nodes_in(document, above).values()]
    known = {id(link) for link in ours}
    every = all_links(document)
    return [link for link in every if id(link) not in known and link.get("rel") not in ("root", "parent")]


def item_link(node: Node, item: Mapping[str, Any]) -> Link:
    """Return the link from a node to an item, with what it records of it."""
    item_id, properties = str(item["id"]), item["properties"]
    link: Link = {
        "rel": "item",
        "href": f"{node.up}/{item_id}/{item_id}.json",
        "type": _GEOJSON,
        "title": str(properties.get("title", item_id)),
    }
    if item.get("bbox"):
        link["bbox"] = item["bbox"]
    if thumbnail := item.get("assets", {}).get("thumbnail"):
        link["unveil:thumbnail"] = thumbnail["href"]
    return link | {name: properties[name] for name in _RECORDED if properties.get(name) is not None}


def child_link(node: Node, contents: Contents) -> Link:
    """Return the link to a node from the document above it, with the sum of what lies below."""
    here = f"./{node.path[-1]}/catalog.json" if node.above else f"./{node.name}"
    return {"rel": "child", "href": here, "type": _JSON, "title": node.title, CONTENTS: contents.document}
