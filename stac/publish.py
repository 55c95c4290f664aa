"""Publishing products into a static catalog: whole or not at all, readable at every instant.

A product arrives with its item in one rename, and links follow: a link never points to a file that is not there, and
the item is the mark that a product is done.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pystac
from filelock import FileLock, Timeout
from pystac.errors import STACError

from stac.catalog import collection_document, collection_title, root_document
from stac.errors import InvalidProduct, NotWritable, PublishError
from stac.raster import check_cog
from stac.storage import write_json, writing
from stac.validate import check_id, item_problems, read_document, validate_item

DEFAULT_COLLECTION = "unveil-cloud-free"
_LOCK_TIMEOUT_S = 120.0
_STAGING = ".staging"
_SOURCE = ".source-collection.json"


class StaticCatalog:
    """A folder with a catalog, one collection, and a folder per item."""

    def __init__(self, root: Path, collection_id: str = DEFAULT_COLLECTION) -> None:
        self.root, self.collection_id = root, check_id(collection_id)

    @property
    def catalog_path(self) -> Path:
        """The root document."""
        return self.root / "catalog.json"

    @property
    def collection_path(self) -> Path:
        """The collection's document."""
        return self.root / self.collection_id / "collection.json"

    def staging(self, name: str) -> Path:
        """Return an empty folder to make a product in, on the catalog's own file system.

        Raises:
            NotWritable: the catalog's folder cannot be written.
            DiskFull: there is no room.
        """
        folder = self.root / _STAGING / check_id(name)
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        return folder

    def published_work(self) -> dict[str, Path]:
        """Return the path of every published item by its work id.

        Raises:
            InvalidProduct: an item cannot be read.
        """
        found = {}
        for path in self._item_paths():
            work_id = _properties(path, read_document(path)).get("unveil:work_id")
            if work_id:
                found[str(work_id)] = path
        return found

    def items(self) -> list[pystac.Item]:
        """Return all published items, sorted by id."""
        return [pystac.Item.from_file(str(path)) for path in self._item_paths()]

    def publish(self, staging: Path, item: pystac.Item, source_collection: Mapping[str, Any] | None = None) -> Path:
        """Publish a staged product and return the path of its item. `staging` is used up.

        Where the same work was published meanwhile, by another run, its files stay as they are.

        Args:
            staging: folder with all files that the item's assets name; from `staging()`.
            item: the product's item, hrefs relative to itself.
            source_collection: carries licence, providers and keywords into the collection.

        Raises:
            InvalidProduct: a file, the item, or what was read back is wrong.
            DiskFull, NotWritable: the catalog cannot be written; it is as it was.
            PublishError: another process holds the catalog for too long.
        """
        document = self._finished(item)
        self._check(staging, document)
        folder = self.root / self.collection_id / item.id
        path = folder / f"{item.id}.json"
        with self._locked():
            if _holds(path, document):
                shutil.rmtree(staging, ignore_errors=True)
            else:
                write_json(staging / path.name, document)
                self._move_in(staging, folder)
            if source_collection is not None:
                write_json(self.root / self.collection_id / _SOURCE, source_collection)
            self._relink(str(document["properties"]["processing:software"].get("unveil-eo", "")))
            self._read_back(path, document)
        return path

    def withdraw(self, item_id: str) -> None:
        """Take an item out of the collection; nothing happens where there is none.

        Raises:
            DiskFull, NotWritable: the catalog cannot be written.
            PublishError: another process holds the catalog for too long.
        """
        folder = self.root / self.collection_id / check_id(item_id)
        if not folder.is_dir():
            return
        with self._locked(), writing(folder):
            # Its link goes first: a link never points to what is not there.
            self._relink(self._version(), without=item_id)
            shutil.rmtree(folder)
            if not any(self._item_paths()):
                shutil.rmtree(self.collection_path.parent)

    def repair(self) -> None:
        """Link products that a crash left without a link, and drop links of products that were removed.

        Writes only when something is amiss.

        Raises:
            InvalidProduct: an item cannot be read.
            DiskFull, NotWritable: the catalog cannot be written.
        """
        present = sorted(path.parent.name for path in self._item_paths())
        linked = sorted(href.split("/")[-2] for href in _hrefs(self.collection_path, "item"))
        listed = f"./{self.collection_id}/collection.json" in _hrefs(self.catalog_path, "child")
        if not present or (present == linked and listed):
            return
        with self._locked():
            self._relink(self._version())

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

    def _move_in(self, staging: Path, folder: Path) -> None:
        """Put the product's files in place; an older product of the same id steps aside until they are."""
        aside = folder.with_name(f".{folder.name}.old")
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            if folder.exists():
                folder.rename(aside)
            try:
                staging.rename(folder)
            except OSError:
                if aside.exists():
                    aside.rename(folder)
                raise
            shutil.rmtree(aside, ignore_errors=True)

    def _version(self) -> str:
        """Return the version of this software that made the first item."""
        for path in self._item_paths():
            return str(read_document(path).get("properties", {}).get("processing:software", {}).get("unveil-eo", ""))
        return ""

    def _relink(self, version: str, without: str | None = None) -> None:
        """Write collection and root from the items that are there: links lost in a crash come back.

        A collection without items is not listed.
        """
        documents = [read_document(path) for path in self._item_paths() if path.stem != without]
        source_path = self.root / self.collection_id / _SOURCE
        source = read_document(source_path) if source_path.is_file() else None
        if documents:
            write_json(self.collection_path, collection_document(self.collection_id, documents, source, version))
        listed = sorted(self.root.glob("[!.]*/collection.json"))
        collections = [path for path in listed if documents or path != self.collection_path]
        titles = [(p.parent.name, str(read_document(p).get("title", p.parent.name))) for p in collections]
        write_json(self.catalog_path, root_document(titles))

    def _read_back(self, path: Path, document: Mapping[str, Any]) -> None:
        try:
            found = pystac.Item.from_file(str(path))
            collection = pystac.Collection.from_file(str(self.collection_path))
        except (STACError, OSError, ValueError, KeyError) as error:
            raise InvalidProduct(f"Item {document['id']} cannot be read back ({error}); publish it again.") from error
        if found.id not in {link.href.split("/")[-2] for link in collection.get_item_links() if link.href}:
            raise InvalidProduct(f"Item {document['id']} was written but is not linked; publish it again.")

    def _item_paths(self) -> Iterator[Path]:
        """Yield the documents of all items that are done."""
        for folder in sorted((self.root / self.collection_id).glob("[!.]*/")):
            path = folder / f"{folder.name}.json"
            if path.is_file():
                yield path

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one publisher at a time change the catalog."""
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / ".publish.lock", timeout=_LOCK_TIMEOUT_S)
            try:
                lock.acquire()
            except Timeout as error:
                raise PublishError(
                    f"Another process has held {self.root} for {_LOCK_TIMEOUT_S:.0f} s; stop it or try later."
                ) from error
        try:
            yield
        finally:
            lock.release()


def _hrefs(path: Path, rel: str) -> list[str]:
    """Return where the links of a document lead; nowhere when it cannot be read."""
    try:
        links = read_document(path).get("links", [])
    except InvalidProduct:
        return []
    return [str(link["href"]) for link in links if link.get("rel") == rel]


def _holds(path: Path, document: Mapping[str, Any]) -> bool:
    """Tell whether the product of an item is published already, whole and from the same work."""
    if not path.is_file() or item_problems(path):
        return False
    work_ids = (d["properties"]["unveil:work_id"] for d in (read_document(path), document))
    return len(set(work_ids)) == 1


def _properties(path: Path, document: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = document.get("properties")
    if not isinstance(properties, dict):
        raise InvalidProduct(f"{path} is no STAC item; restore the file, or remove its folder and run again.")
    return properties


def require_writable(folder: Path) -> None:
    """Raise unless a folder, or the nearest one above it that exists, can be written.

    Raises:
        NotWritable: it cannot.
    """
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        reason = "no permission to write" if place.is_dir() else "no folder"
        raise NotWritable(f"{folder} cannot be written ({place}: {reason}); check it or choose another --out.")
