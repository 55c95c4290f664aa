"""Publishing products into a static catalog: whole or not at all, readable at every instant.

A product arrives with its item in one rename, and links follow: a link never points to a file that is not there, and
the item is the mark that a product is done.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import pystac
from pystac.errors import STACError

from stac.access.locations import Location
from stac.access.s3 import S3Options
from stac.catalog import collection_document, collection_title, root_document
from stac.errors import InvalidProduct
from stac.raster import check_cog
from stac.targets import target_at
from stac.targets.base import ABANDONED_S, Document
from stac.validate import check_id, validate_item

DEFAULT_COLLECTION = "unveil-cloud-free"
_ROOT = "catalog.json"


class StaticCatalog:
    """A root document, one collection, and a folder per item, in a folder or a bucket."""

    def __init__(
        self,
        root: Location,
        collection_id: str = DEFAULT_COLLECTION,
        s3: S3Options | None = None,
        workspace: Path | None = None,
    ) -> None:
        """Open a catalog; nothing is written yet.

        Args:
            root: folder or S3 prefix.
            collection_id: the collection that products are added to; others in the same place stay as they are.
            s3: where S3 is and as whom it is asked.
            workspace: local folder in which products for S3 are made.

        Raises:
            InvalidProduct: the collection's id cannot be the name of a folder.
        """
        self.root, self.collection_id = root, check_id(collection_id)
        self._target = target_at(root, s3, workspace)

    @property
    def catalog_path(self) -> Location:
        """The root document."""
        return self.root / _ROOT

    @property
    def collection_path(self) -> Location:
        """The collection's document."""
        return self.root / self._collection_name

    def staging(self, name: str) -> Path:
        """Return an empty local folder to make a product in, on the catalog's own file system where it has one.

        Raises:
            InvalidProduct: the name cannot be the name of a folder.
            NotWritable: the folder cannot be written.
            DiskFull: there is no room.
        """
        return self._target.staging(check_id(name))

    def beside(self, collection_id: str) -> StaticCatalog:
        """Return another collection of the same catalog.

        Raises:
            InvalidProduct: the collection's id cannot be the name of a folder.
        """
        other = copy(self)
        other.collection_id = check_id(collection_id)
        return other

    def published_work(self, chosen: Callable[[Mapping[str, Any]], bool] | None = None) -> dict[str, Location]:
        """Return the place of every published item by its work id.

        Args:
            chosen: tells from an item's properties whether it counts; all do when left out.

        Raises:
            InvalidProduct: an item cannot be read.
            PublishError: the catalog cannot be read.
        """
        found = {}
        for item_id, document in self._target.items(self.collection_id).items():
            place = self._item_place(item_id)
            properties = _properties(place, document)
            work_id = properties.get("unveil:work_id")
            if work_id and (chosen is None or chosen(properties)):
                found[str(work_id)] = place
        return found

    def document(self, item_id: str) -> Document | None:
        """Return the JSON of a published item, None where there is none."""
        return self._target.read(f"{self.collection_id}/{check_id(item_id)}/{item_id}.json")

    def items(self) -> list[pystac.Item]:
        """Return all published items, sorted by id."""
        documents = self._target.items(self.collection_id)
        return [pystac.Item.from_dict(d, href=str(self._item_place(i))) for i, d in documents.items()]

    def publish(self, staging: Path, item: pystac.Item, source_collection: Mapping[str, Any] | None = None) -> Location:
        """Publish a staged product and return the place of its item. `staging` is used up.

        Where the same work was published meanwhile, by another run, its files stay as they are.

        Args:
            staging: folder with all files that the item's assets name; from `staging()`.
            item: the product's item, hrefs relative to itself.
            source_collection: carries licence, providers and keywords into the collection.

        Raises:
            InvalidProduct: a file, the item, or what was read back is wrong.
            DiskFull, NotWritable: the catalog cannot be written; it is as it was.
            TargetUnavailable: the catalog does not answer.
            PublishError: another process holds the catalog for too long.
        """
        document = self._finished(item)
        self._check(staging, document)
        with self._target.exclusive():
            if self._target.holds(self.collection_id, document):
                shutil.rmtree(staging, ignore_errors=True)
            else:
                self._target.add(self.collection_id, staging, document)
            if source_collection is not None:
                self._target.write(self._source_name, source_collection)
            self._relink(_version(document))
            self._read_back(item.id)
        return self._item_place(item.id)

    def withdraw(self, item_id: str) -> None:
        """Take an item out of the collection; nothing happens where there is none.

        Raises:
            DiskFull, NotWritable: the catalog cannot be written.
            PublishError: another process holds the catalog for too long.
        """
        if check_id(item_id) not in self._target.item_ids(self.collection_id):
            return
        with self._target.exclusive():
            version = _version(self._read(f"{self.collection_id}/{item_id}/{item_id}.json"))
            # Its link goes first: a link never points to what is not there.
            self._relink(version, without=item_id)
            self._target.remove(self.collection_id, item_id)
            if self._target.item_ids(self.collection_id):
                # Another publisher may have linked it once more in between.
                self._relink(version)
            else:
                self._target.remove_collection(self.collection_id)

    def repair(self, older_than_s: float = ABANDONED_S) -> None:
        """Link products that a crash left without a link, and drop links of products that were removed.

        Writes only when something is amiss. What crashes left behind is cleared away.

        Args:
            older_than_s: files that belong to no product are left alone until they are older, seconds: another
                process may be about to publish them.

        Raises:
            InvalidProduct: an item cannot be read.
            DiskFull, NotWritable: the catalog cannot be written.
        """
        self._target.sweep(self.collection_id, older_than_s)
        present = self._target.item_ids(self.collection_id)
        linked = sorted(href.split("/")[-2] for href in self._hrefs(self._collection_name, "item"))
        listed = f"./{self._collection_name}" in self._hrefs(_ROOT, "child")
        if not present or (present == linked and listed):
            return
        with self._target.exclusive():
            first = next(iter(self._target.items(self.collection_id).values()))
            self._relink(_version(first))

    def require_writable(self) -> None:
        """Raise unless the catalog can be written.

        Raises:
            NotWritable: it cannot.
            TargetUnavailable: it does not answer.
        """
        self._target.require_writable()

    def _finished(self, item: pystac.Item) -> dict[str, Any]:
        """Return the item's document with its place in the catalog."""
        check_id(item.id)
        up = {
            "rel": "collection",
            "href": "../collection.json",
            "type": "application/json",
            "title": collection_title(self.collection_id),
        }
        root = {"rel": "root", "href": "../../catalog.json", "type": "application/json", "title": "Cloud-free mosaics"}
        document = item.to_dict(include_self_link=False, transform_hrefs=False)
        kept = [link for link in document["links"] if link["rel"] not in ("root", "parent", "collection", "self")]
        return document | {"collection": self.collection_id, "links": [root, up | {"rel": "parent"}, up, *kept]}

    def _check(self, staging: Path, document: Mapping[str, Any]) -> None:
        validate_item(document)
        for key, asset in document["assets"].items():
            path = staging / str(asset["href"])
            if not path.is_file():
                raise InvalidProduct(f"Item {document['id']}: asset {key} was not made ({path}); run it again.")
            if path.suffix == ".tif":
                check_cog(path)

    def _relink(self, version: str, without: str | None = None) -> None:
        """Write collection and root from the items that are there: links lost in a crash come back.

        A collection without items is not listed.
        """
        left = set(self._target.item_ids(self.collection_id)) - {without}
        if left:
            self._target.update(self._collection_name, lambda: self._collection(version, without))
        self._target.update(_ROOT, lambda: self._root(without_ours=not left))

    def _collection(self, version: str, without: str | None) -> Document:
        documents = [d for item_id, d in self._target.items(self.collection_id).items() if item_id != without]
        source = self._target.read(self._source_name)
        return collection_document(self.collection_id, documents, source, version)

    def _root(self, *, without_ours: bool) -> Document:
        ids = [i for i in self._target.collection_ids() if not (without_ours and i == self.collection_id)]
        found = [(name, self._target.read(f"{name}/collection.json")) for name in ids]
        return root_document([(name, str(d.get("title", name))) for name, d in found if d is not None])

    def _read_back(self, item_id: str) -> None:
        try:
            found = pystac.Item.from_dict(self._read(f"{self.collection_id}/{item_id}/{item_id}.json"))
            collection = pystac.Collection.from_dict(self._read(self._collection_name))
        except (STACError, ValueError, KeyError) as error:
            raise InvalidProduct(f"Item {item_id} cannot be read back ({error}); publish it again.") from error
        if found.id not in {link.href.split("/")[-2] for link in collection.get_item_links() if link.href}:
            raise InvalidProduct(f"Item {item_id} was written but is not linked; publish it again.")

    def _read(self, name: str) -> Document:
        found = self._target.read(name)
        if found is None:
            raise InvalidProduct(f"{self.root / name} was written but is not there; publish it again.")
        return found

    def _hrefs(self, name: str, rel: str) -> list[str]:
        """Return where the links of a document lead; nowhere when it cannot be read."""
        try:
            links = (self._target.read(name) or {}).get("links", [])
        except InvalidProduct:
            return []
        return [str(link["href"]) for link in links if link.get("rel") == rel]

    @property
    def _collection_name(self) -> str:
        return f"{self.collection_id}/collection.json"

    @property
    def _source_name(self) -> str:
        return f"{self.collection_id}/.source-collection.json"

    def _item_place(self, item_id: str) -> Location:
        return self.root / self.collection_id / item_id / f"{item_id}.json"


def _version(document: Mapping[str, Any]) -> str:
    """Return the version of this software that made an item."""
    return str(document.get("properties", {}).get("processing:software", {}).get("unveil-eo", ""))


def _properties(place: Location, document: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = document.get("properties")
    if not isinstance(properties, dict):
        raise InvalidProduct(f"{place} is no STAC item; restore the file, or remove its folder and run again.")
    return properties


def require_writable(folder: Path) -> None:
    """Raise unless a folder, or the nearest one above it that exists, can be written.

    Raises:
        NotWritable: it cannot.
    """
    target_at(folder).require_writable()
