"""Products of the same target and cell, made again with another model or other parameters: which follows which.

The version of a product is a number counted from 1 within its target and cell. The newest is the latest version; the
others are deprecated and name it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stac.catalog.tree import Document

_MARK = "-unveil-"
_TYPE = "application/geo+json"
#: Links that say how versions follow each other.
_RELATIONS = ("predecessor-version", "successor-version", "latest-version")


def subject_of(item_id: str) -> str:
    """Return what an item is a version of: the part of its id that names target and cell."""
    return item_id.rpartition(_MARK)[0]


def number_of(document: Mapping[str, Any]) -> int:
    """Return the number of a version; items of older software have none and count as the first."""
    number = str(document["properties"].get("version", ""))
    return int(number) if number.isdecimal() else 1


def version_for(item_id: str, properties: Mapping[str, Any], published: Sequence[Mapping[str, Any]]) -> str:
    """Return the version of an item about to be published: its own where it was, else the next of its cell.

    Args:
        item_id: the item.
        properties: of the item.
        published: all items of its target.
    """
    ground = ground_of(properties)
    same = [document for document in published if ground_of(document["properties"]) == ground]
    numbers = {str(document["id"]): number_of(document) for document in same}
    return str(numbers.get(item_id, max(numbers.values(), default=0) + 1))


def in_succession(versions: Sequence[Mapping[str, Any]]) -> list[Document]:
    """Return all items of one target, oldest first within each cell, each with its links to the others of its cell.

    Two areas of one scene are cells of their own. An item of the same collection lies beside the others, so links are
    relative. An item that is right already is returned as it is. What other relations an item has stays.

    Args:
        versions: documents of the items, in any order.
    """
    ordered = sorted(versions, key=lambda d: (number_of(d), str(d["properties"].get("created", "")), str(d["id"])))
    cells: dict[str, list[Mapping[str, Any]]] = {}
    for document in ordered:
        cells.setdefault(ground_of(document["properties"]), []).append(document)
    return [_placed(document, cell, at) for cell in cells.values() for at, document in enumerate(cell)]


def ground_of(properties: Mapping[str, Any]) -> str:
    """Return the ground that an item shows; items without a grid of their own, such as those of regions, share one."""
    edges = properties.get("proj:bbox")
    return json.dumps([properties.get("proj:code"), edges]) if edges else ""


def _placed(document: Mapping[str, Any], ordered: Sequence[Mapping[str, Any]], at: int) -> Document:
    latest, is_latest = ordered[-1], at == len(ordered) - 1
    neighbours = {"predecessor-version": ordered[at - 1] if at else None}
    neighbours |= {"successor-version": None if is_latest else ordered[at + 1]}
    neighbours |= {"latest-version": None if is_latest else latest}
    links = [_link(relation, other) for relation, other in neighbours.items() if other is not None]
    kept = [link for link in document["links"] if link.get("rel") not in _RELATIONS]
    properties = {name: value for name, value in document["properties"].items() if name != "deprecated"}
    if not is_latest:
        properties["deprecated"] = True
    return {**document, "properties": properties, "links": [*kept, *links]}


def _link(relation: str, other: Mapping[str, Any]) -> dict[str, str]:
    item_id = str(other["id"])
    title = f"Version {number_of(other)}: {other['properties'].get('title', item_id)}"
    return {"rel": relation, "href": f"../{item_id}/{item_id}.json", "type": _TYPE, "title": title}
