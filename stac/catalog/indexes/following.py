"""Keep searchable copies true to a catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from stac.catalog.product_collections import OTHER_VERDICT, ProductCollection
from stac.catalog.publish import StaticCatalog
from stac.catalog.tree import Document, Progress, item_name
from stac.errors import IndexNotUpdated, InvalidQuery
from stac.io.s3 import Location
from stac.search.hrefs import is_remote, resolve

if TYPE_CHECKING:
    from stac.catalog.indexes.base import Index

#: An index lists items and children itself.
_LISTING = frozenset({"item", "items", "child", "children"})
#: Items that are read and sent at once.
_BATCH = 500
#: How often a collection is written again that other publishers change meanwhile.
_ROUNDS = 5


def public_base(root: Location, address: str = "") -> str:
    """Return the address below which readers of copies find a catalog.

    Args:
        root: where it lies.
        address: of its root for readers; its own place when empty.

    Raises:
        InvalidQuery: the address is none.
    """
    if not address:
        # A bare path would be taken for one on the index's own server.
        return root.resolve().as_uri() if isinstance(root, Path) else str(root)
    if not is_remote(address):
        raise InvalidQuery(f"public_root {address!r} is not an address; write https://HOST/PATH or s3://BUCKET.")
    return address.rstrip("/")


def copy_of(document: Mapping[str, Any], address: str) -> Document:
    """Return an item or a collection with absolute hrefs, a `self` that is true, and a `canonical` link to it.

    Args:
        document: as it lies in the catalog, hrefs relative to itself.
        address: where readers find it there.

    Raises:
        UnsafeHref: an href leads nowhere.
    """
    links = [link for link in document.get("links", []) if link["rel"] not in {*_LISTING, "self", "canonical"}]
    media_type = "application/geo+json" if document.get("type") == "Feature" else "application/json"
    here = {"href": address, "type": media_type, "title": _title(document)}
    every = document.get("assets") or {}
    assets = {key: asset | {"href": _absolute(address, asset["href"])} for key, asset in every.items()}
    return {
        **document,
        "links": [
            {"rel": "self", **here},
            {"rel": "canonical", **here},
            *({**link, "href": _absolute(address, link["href"])} for link in links),
        ],
        **({"assets": assets} if assets else {}),
    }


def _title(document: Mapping[str, Any]) -> str:
    return str(document.get("title") or document.get("properties", {}).get("title") or document["id"])


def _absolute(address: str, href: str) -> str:
    # What is absolute was made public by whoever wrote it; only the catalog's own files move with its address.
    if "://" in href:
        return href
    return resolve(address, href) if is_remote(address) else urljoin(address, href)


@dataclass(frozen=True, slots=True)
class Update:
    """What was done to one collection of an index."""

    index: str
    collection: str
    put: int
    removed: int
    unchanged: int


class Indexes:
    """The indexes of a catalog. The catalog alone says what is published; an index that failed is repaired later.

    Every method may raise `IndexNotUpdated`: an index does not hold what the catalog does.
    """

    def __init__(self, catalog: StaticCatalog, indexes: Sequence[Index], public_root: str = "") -> None:
        """Name what follows what; nothing is written yet.

        Args:
            catalog: any collection of the catalog.
            indexes: what follows it.
            public_root: address of the catalog for readers of the indexes; its own place when empty.

        Raises:
            InvalidQuery: the address is none.
        """
        self._catalog, self._indexes = catalog, tuple(indexes)
        self._base = public_base(catalog.root, public_root)

    def put(self, place: Location) -> None:
        """Bring one published item into every index, and out of its other collection there."""
        try:
            self._each(lambda index: self._put(index, place))
        except IndexNotUpdated as error:
            raise type(error)(f"Item {place.stem} is published, but not in every index: {error}") from error

    def remove(self, item_ids: Iterable[str]) -> None:
        """Take items out of every index, whatever collection they are in."""
        ids = list(item_ids)
        self._each(lambda index: _remove(index, ProductCollection, ids))

    def reconcile(self, *, again: bool = False, progress: Progress = lambda *_: None) -> list[Update]:
        """Compare ids and work ids of catalog and indexes; put what is missing or different, remove what is gone.

        Nothing is removed for a catalog that is not there: its place may be mistyped.

        Args:
            again: put everything, e.g. because the public address has changed.
            progress: called with progress.
        """
        return [self._follow(index, kind, again, progress) for index in self._indexes for kind in ProductCollection]

    def _each(self, work: Callable[[Index], None]) -> None:
        """Do something to every index, also where an earlier one failed; then raise the first failure."""
        failed: list[IndexNotUpdated] = []
        for index in self._indexes:
            try:
                work(index)
            except IndexNotUpdated as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def _put(self, index: Index, place: Location) -> None:
        """Put an item, until the catalog is still what was put: others may publish or retract meanwhile."""
        name = item_name(place.parent.parent.name, place.stem)
        document = self._catalog.target.read(name)
        for _ in range(_ROUNDS):
            if document is None:
                return _remove(index, ProductCollection, [place.stem])
            kind = ProductCollection(document["collection"])
            collection = self._collection(kind)
            if collection is not None:
                index.put(collection, [copy_of(document, f"{self._base}/{name}")])
            _remove(index, OTHER_VERDICT[kind], [place.stem])
            before, document = document, self._catalog.target.read(name)
            if document == before and self._collection(kind) == collection:
                return None
        return None

    def _follow(self, index: Index, kind: ProductCollection, again: bool, progress: Progress) -> Update:
        progress(f"comparing {kind} with {index.label}", 0, 0)
        # The index first: what it holds was in the catalog before, so what others publish meanwhile is not removed.
        held = index.works(kind)
        published = {place.stem: work for work, place in self._catalog.beside(kind).published_work().items()}
        wanted = [item_id for item_id, work in published.items() if again or held.get(item_id) != work]
        gone = sorted(set(held) - set(published)) if self._catalog.exists() else []
        self._put_all(index, kind, wanted, progress)
        index.remove(kind, gone)
        return Update(index.label, str(kind), len(wanted), len(gone), len(published) - len(wanted))

    def _put_all(self, index: Index, kind: ProductCollection, item_ids: Sequence[str], progress: Progress) -> None:
        """Put items in batches, and at the end the collection as it is then."""
        collection = self._collection(kind)
        if collection is None:
            return
        for first in range(0, len(item_ids), _BATCH):
            progress(f"loading {kind} into {index.label}", first, len(item_ids))
            names = [item_name(kind, item_id) for item_id in item_ids[first : first + _BATCH]]
            documents = self._catalog.target.read_many(names)
            index.put(collection, [copy_of(d, f"{self._base}/{name}") for name, d in documents.items()])
        index.put(self._collection(kind) or collection, [])

    def _collection(self, kind: ProductCollection) -> Document | None:
        """Return a collection as indexes hold it, None where the catalog has none."""
        name = f"{kind}/collection.json"
        document = self._catalog.target.read(name)
        return None if document is None else copy_of(document, f"{self._base}/{name}")


def _remove(index: Index, collections: Iterable[str], item_ids: Sequence[str]) -> None:
    for collection in collections:
        index.remove(collection, item_ids)
