"""A static catalog read into memory, its links and assets addressed as the API serves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pystac
from shapely.geometry import shape

from stac.embedded.criteria import Record
from stac.errors import InvalidItem, UnsafeHref
from stac.sources.hrefs import is_remote
from stac.sources.static import StaticSource

#: Where the files of the catalog's folder are served.
ASSETS = "assets"
_MADE_BY_API = frozenset({"self", "root", "parent", "collection", "item", "items", "child"})


@dataclass(frozen=True, slots=True)
class MemoryCatalog:
    """Collections and items of one catalog folder."""

    root: Path
    collections: Mapping[str, Mapping[str, Any]]
    records: tuple[Record, ...]
    #: Why items are not served, one sentence each.
    skipped: tuple[str, ...]


def load(catalog: Path) -> MemoryCatalog:
    """Read a static catalog.

    Raises:
        UnreadableCatalog: the catalog or a collection cannot be read.
    """
    source = StaticSource(str(catalog))
    root = (catalog if catalog.is_dir() else catalog.parent).resolve()
    collections, skipped = source.collection_documents(), []
    records = []
    for name in collections:
        for item in source.items(name):
            try:
                records.append(_record(item, name, root))
            except (InvalidItem, UnsafeHref) as error:
                skipped.append(str(error))
    return MemoryCatalog(root, collections, tuple(records), (*(each.reason for each in source.skipped), *skipped))


def _record(item: pystac.Item, collection: str, root: Path) -> Record:
    document = item.to_dict(include_self_link=False, transform_hrefs=False)
    document["collection"] = collection
    document["links"] = _outside(document["links"])
    for asset in document["assets"].values():
        asset["href"] = _served(item.id, asset["href"], root)
    if item.datetime is None or not document.get("geometry"):
        raise InvalidItem(f"Item {item.id} has no datetime or no footprint, so it cannot be searched.")
    return Record(document, item.datetime, shape(document["geometry"]))


def _served(item_id: str, href: str, root: Path) -> str:
    """Return a URL as it is, and a file of the catalog's folder as a path below the API's address."""
    if "://" in href:
        return href
    path = Path(href).resolve()
    if not path.is_relative_to(root):
        raise UnsafeHref(f"Item {item_id} names {href}, outside the catalog's folder {root}; move the file into it.")
    return f"{ASSETS}/{quote(path.relative_to(root).as_posix())}"


def _outside(links: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the links that lead out of the catalog; the API writes its own."""
    return [link for link in links if link.get("rel") not in _MADE_BY_API and is_remote(str(link.get("href")))]


def item_document(document: Mapping[str, Any], base: str) -> dict[str, Any]:
    """Return an item as the API at `base` (ending in a slash) answers it: absolute assets and links."""
    collection = f"{base}collections/{quote(document['collection'])}"
    assets = {key: {**asset, "href": _absolute(base, asset["href"])} for key, asset in document["assets"].items()}
    links = [
        {
            "rel": "self",
            "type": "application/geo+json",
            "href": f"{collection}/items/{quote(document['id'])}",
        },
        {"rel": "parent", "type": "application/json", "href": collection},
        {"rel": "collection", "type": "application/json", "href": collection},
        {"rel": "root", "type": "application/json", "href": base},
        *document["links"],
    ]
    return {**document, "assets": assets, "links": links}


def _absolute(base: str, href: str) -> str:
    return href if "://" in href else f"{base}{href}"


def collection_document(document: Mapping[str, Any], base: str) -> dict[str, Any]:
    """Return a collection as the API at `base` (ending in a slash) answers it."""
    address = f"{base}collections/{quote(str(document['id']))}"
    links = [
        {"rel": "self", "type": "application/json", "href": address},
        {"rel": "parent", "type": "application/json", "href": base},
        {"rel": "root", "type": "application/json", "href": base},
        {"rel": "items", "type": "application/geo+json", "href": f"{address}/items"},
        *_outside(list(document.get("links", []))),
    ]
    return {**document, "links": links}
