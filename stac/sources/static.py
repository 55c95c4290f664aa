"""A static catalog: JSON files that link to each other, on disk or on a web server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pystac

from stac.access import Access
from stac.access.addresses import host_of
from stac.access.locations import is_s3, s3_location
from stac.access.s3 import S3Options
from stac.acquisitions import instant_of
from stac.containment import one_item
from stac.errors import InvalidItem, InvalidQuery, StacError, UnreadableCatalog, UnsafeHref
from stac.query import Query
from stac.sources.base import Skipped
from stac.sources.documents import Documents
from stac.sources.footprints import touches
from stac.sources.hrefs import checked_id, is_remote, resolve
from stac.sources.records import by_time, item_from
from stac.sources.versions import newest_versions
from stac.sources.web.patience import Patience

#: A walk ends with an error after so many documents or levels: no catalog for one run is larger.
_MOST_DOCUMENTS = 10_000
_DEEPEST = 12


class StaticSource:
    """Walks the collections and items of a static catalog."""

    def __init__(
        self,
        location: str,
        patience: Patience | None = None,
        s3: S3Options | None = None,
        hosts: frozenset[str] = frozenset(),
        access: Access | None = None,
    ) -> None:
        """Open the catalog.

        Args:
            location: path or URL of the root document, or of the folder that holds `catalog.json`.
            patience: how a server is waited for.
            s3: where S3 is and as whom it is asked.
            hosts: those that may be inside this network, besides that of the root.
            access: how pixels are reached where nothing else tells versions of a scene from halves of it.

        Raises:
            UnreadableCatalog: the root is no STAC catalog or collection.
            SourceUnavailable: the server does not answer.
        """
        self.skipped: list[Skipped] = []
        self._access = access
        self._documents = Documents(patience or Patience(), s3=s3, named=hosts | {host_of(location)})
        self._root = root_href(location)
        self._read_node(self._root)

    def describe(self) -> str:
        """Return the source in a few words."""
        return f"static catalog {self._root}"

    def collections(self) -> list[str]:
        """Return the ids of all collections, sorted.

        Raises:
            UnreadableCatalog: a catalog or collection cannot be read.
        """
        return sorted(self._collections())

    def collection(self, collection_id: str) -> dict[str, Any]:
        """Return the JSON of a collection.

        Raises:
            InvalidQuery: the collection does not exist.
            UnreadableCatalog: a catalog or collection cannot be read.
        """
        documents = self.collection_documents()
        if collection_id not in documents:
            known = ", ".join(sorted(documents)) or "no collection"
            raise InvalidQuery(f"Collection {collection_id!r} does not exist in {self._root}; it has {known}.")
        return documents[collection_id]

    def collection_documents(self) -> dict[str, dict[str, Any]]:
        """Return the JSON of every collection by id, as it is in the catalog."""
        return {name: document for name, (_, document) in self._collections().items()}

    def items(self, collection: str) -> Iterator[pystac.Item]:
        """Yield every readable item of a collection; reasons for the others are appended to `skipped`.

        Raises:
            InvalidQuery: the collection does not exist.
            UnreadableCatalog: the collection or a catalog below it cannot be read.
        """
        seen: set[str] = set()
        for href in self.item_hrefs(collection):
            item = self._item(href)
            if item is None or item.id in seen:
                continue
            seen.add(item.id)
            yield item

    def item_hrefs(self, collection: str) -> Iterator[str]:
        """Yield the path or URL of every item that a collection links, at any depth; nothing of the items is read.

        Raises:
            InvalidQuery: the collection does not exist.
            UnreadableCatalog: the collection or a catalog below it cannot be read.
        """
        collections = self._collections()
        if collection not in collections:
            known = ", ".join(sorted(collections)) or "no collection"
            raise InvalidQuery(f"Collection {collection!r} does not exist in {self._root}; it has {known}.")
        for base, document in self._walk(collections[collection][0]):
            yield from _links(base, document, "item", self.skipped)

    def search(self, query: Query) -> list[pystac.Item]:
        """Return all matching items, sorted by time and id, with absolute hrefs.

        Raises:
            InvalidQuery: the collection does not exist.
            UnreadableCatalog: the collection or a catalog cannot be read; an unreadable item is only skipped.
        """
        self.skipped = []
        with self._documents.web.bounded(f"Searching {self._root}"):
            every = (self._item(href) for href in self.item_hrefs(query.collection))
            found = [item for item in every if item is not None and self._matches(item, query)]
        kept, passed = newest_versions(found, self._access)
        self.skipped += passed
        return sorted(kept, key=by_time)

    def _matches(self, item: pystac.Item, query: Query) -> bool:
        return query.contains(instant_of(item)) and touches(item, query.boxes)

    def _item(self, href: str) -> pystac.Item | None:
        """Return the item at `href`, or None with the reason in `skipped`."""
        document: dict[str, Any] = {}
        try:
            document = self._documents.read(href)
            with one_item(str(document.get("id"))):
                return item_from(document, href)
        except (UnreadableCatalog, InvalidItem, UnsafeHref) as error:
            self.skipped.append(Skipped(str(document.get("id") or PurePosixPath(href).stem), str(error)))
            return None

    def _read_node(self, href: str) -> dict[str, Any]:
        document = self._documents.read(href)
        if document.get("type") not in ("Catalog", "Collection") or not isinstance(document.get("links"), list):
            raise UnreadableCatalog(f"{href} is no STAC catalog or collection; give the path of a catalog.json.")
        return document

    def _collections(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Return (href, document) of every collection by id."""
        nodes = self._walk(self._root)
        return {checked_id(node.get("id")): (href, node) for href, node in nodes if node["type"] == "Collection"}

    def _walk(self, start: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (href, document) of a catalog and all catalogs and collections below it, each once."""
        waiting, seen = [(start, 0)], {start}
        while waiting:
            href, depth = waiting.pop(0)
            document = self._read_node(href)
            yield href, document
            below = [child for child in _links(href, document, "child", None) if child not in seen]
            seen.update(below)
            if below and (depth >= _DEEPEST or len(seen) > _MOST_DOCUMENTS):
                raise UnreadableCatalog(
                    f"{self._root} is too large to be walked; use a STAC API or a catalog below it."
                )
            waiting += [(child, depth + 1) for child in below]


def root_href(location: str) -> str:
    """Return the absolute path or URL of a catalog's root document; a folder means its `catalog.json`."""
    if is_s3(location):
        place = s3_location(location)
        return str(place if place.name.endswith(".json") else place / "catalog.json")
    if is_remote(location):
        return location
    path = Path(location.removeprefix("file://")).expanduser().absolute()
    return str(path / "catalog.json" if path.is_dir() else path)


def _links(base: str, document: dict[str, Any], rel: str, skipped: list[Skipped] | None) -> Iterator[str]:
    """Yield the absolute hrefs of one kind of link.

    Raises:
        UnsafeHref: a link names what it may not, and there is no list to note it in.
    """
    for link in document["links"]:
        if not isinstance(link, dict) or link.get("rel") != rel:
            continue
        try:
            yield resolve(base, link.get("href"))
        except StacError as error:
            if skipped is None:
                raise
            skipped.append(Skipped("", str(error)))
