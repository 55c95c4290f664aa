"""Publishing products into a static catalog: whole or not at all, readable at every instant.

A product arrives with its item in one rename, and links follow: a link never points to a file that is not there, and
the item is the mark that a product is done.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import pystac
from pystac.errors import STACError

from stac.catalog.documents import CATALOG_TITLE, collection_title
from stac.catalog.links import ROOT, CollectionLinks, Survey, survey_of, version_of
from stac.catalog.store_s3 import target_at
from stac.catalog.tree import Document, Node, files_of, items_in, month_of, node_of, placed
from stac.catalog.validation import check_id, file_problems, validate_item
from stac.catalog.versions import in_succession, subject_of
from stac.errors import InvalidProduct
from stac.io.s3 import Location, S3Options

DEFAULT_COLLECTION = "unveil-cloud-free"
#: What a crash leaves behind is cleared away when it has not changed for so long, seconds.
_ABANDONED_S = 7 * 24 * 3600.0


class StaticCatalog:
    """A root document, one collection, and a folder per item, in a folder or a bucket.

    Every method may raise `PublishError`: `InvalidProduct` where a document, a file or a name cannot be used,
    `DiskFull`, `NotWritable` or `TargetUnavailable` where the catalog cannot be written or read; it is then as it was.
    """

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
        """
        self.root, self.collection_id = root, check_id(collection_id)
        self.target = target_at(root, s3, workspace)

    @property
    def catalog_path(self) -> Location:
        """The root document."""
        return self.root / ROOT

    @property
    def collection_path(self) -> Location:
        """The collection's document."""
        return self.root / self._links.collection_name

    def exists(self) -> bool:
        """Return whether anything was published here."""
        return self.target.read(ROOT) is not None

    def staging(self, name: str) -> Path:
        """Return an empty local folder to make a product in, on the catalog's own file system where it has one."""
        return self.target.staging(check_id(name))

    def beside(self, collection_id: str) -> StaticCatalog:
        """Return another collection of the same catalog."""
        other = copy(self)
        other.collection_id = check_id(collection_id)
        return other

    def published_work(
        self, chosen: Callable[[Mapping[str, Any]], bool] | None = None, survey: Survey | None = None
    ) -> dict[str, Location]:
        """Return the place of every published item by its work id, from the links to the items.

        Args:
            chosen: decides from what a link records of an item's properties (`stac.catalog.tree.item_link`: work,
                verdict of the gate and its limits among it) whether the item counts; all do when left out.
            survey: what the links say, from `repair`; read when left out.
        """
        survey = survey or survey_of(self.target, self.collection_id)
        return {
            str(properties["unveil:work_id"]): self.place_of(item_id)
            for item_id, properties in sorted(survey.links.items())
            if properties.get("unveil:work_id") and (chosen is None or chosen(properties))
        }

    def document(self, item_id: str) -> Document | None:
        """Return the JSON of a published item, None where there is none."""
        return self.target.read(self._links.item_name(check_id(item_id)))

    def is_there(self, item_id: str) -> bool:
        """Return whether an item has a document, be it a damaged one."""
        return self._links.is_there(check_id(item_id))

    def readable(self, item_id: str) -> Document | None:
        """Return the JSON of a published item, None where there is none or it is damaged."""
        return self._links.held(check_id(item_id))

    def sizes(self, item_ids: Collection[str]) -> Mapping[str, Mapping[str, int]]:
        """Return the size of every file of some products, bytes, by item id and path relative to its folder."""
        return self.target.sizes(self.collection_id, item_ids)

    def link_to(self, item_id: str) -> Mapping[str, Any] | None:
        """Return the link that leads to an item, None without one; reads the item and the document above it."""
        node = node_of(self._links.held(item_id) or {})
        return None if node is None else items_in(self._links.read(node)).get(item_id)

    def damage(self, item_id: str, work_id: str, sizes: Mapping[str, int] | None = None) -> str:
        """Return what is wrong with a published product at a look: its item, and presence and size of its files.

        No file is opened but the item. Empty where nothing is wrong.

        Args:
            item_id: the product.
            work_id: the work that its item must be of.
            sizes: of its files, from `sizes`; asked for when left out.
        """
        try:
            document = self.document(item_id)
        except InvalidProduct as error:
            return str(error)
        if document is None:
            return f"{self.place_of(item_id)} is missing"
        try:
            if document["properties"]["unveil:work_id"] != work_id:
                return f"{self.place_of(item_id)} is of other work"
            wanted = files_of(document)
        except (AttributeError, KeyError, TypeError) as error:
            return f"{self.place_of(item_id)} is not an item of a product ({type(error).__name__}: {error})"
        sizes, folder = self.sizes([item_id])[item_id] if sizes is None else sizes, self.place_of(item_id).parent
        for name, size in wanted.items():
            if name not in sizes:
                return f"{folder / name} is missing"
            if sizes[name] != size:
                return f"{folder / name} has {sizes[name]} bytes, its item says {size}"
        return ""

    def place_of(self, item_id: str) -> Location:
        """Return where the document of an item lies, or would."""
        return self.root / self._links.item_name(item_id)

    def versions(self, item_id: str, day: str) -> list[Document]:
        """Return the published items of the same target and cell as an item, that one included where it is there.

        Args:
            item_id: the item.
            day: when it was acquired, RFC 3339; its versions are of the same day.
        """
        subject = subject_of(check_id(item_id))
        ids = [name for name in self._links.of_day(item_id, day) if subject and subject_of(name) == subject]
        # One that cannot be read is not a version of anything; the run that makes it again replaces it.
        return [document for name in ids if (document := self._links.held(name)) is not None]

    def derived_from(self, item_id: str, day: str) -> list[str]:
        """Return the ids of items of this collection that name an item of it as what they are derived from.

        Args:
            item_id: the item.
            day: when both were acquired, or when their period begins; all items are looked at where it is empty.
        """
        names = self._links.of_day(item_id, day) if day else sorted(survey_of(self.target, self.collection_id).links)
        end = f"/{self._links.item_name(check_id(item_id)).rpartition('/')[2]}"
        return [
            name
            for name in names
            for link in (self._links.held(name) or {}).get("links", ())
            if link.get("rel") == "derived_from" and f"/{link.get('href', '')}".endswith(end)
        ]

    def settle_versions(self, item_id: str, day: str) -> None:
        """Let the items of one target and cell name each other, and mark all but the newest as deprecated.

        Args:
            item_id: one of them, or one that is gone.
            day: when it was acquired, RFC 3339.
        """
        with self.target.exclusive():
            self._settle(item_id, day)

    def items(self) -> list[pystac.Item]:
        """Return all items that links lead to, sorted by id."""
        ids = sorted(survey_of(self.target, self.collection_id).links)
        documents = self.target.read_many(self._links.item_name(item_id) for item_id in ids)
        return [pystac.Item.from_dict(d, href=str(self.root / name)) for name, d in documents.items()]

    def publish(self, staging: Path, item: pystac.Item, source_collection: Mapping[str, Any] | None = None) -> Location:
        """Publish a staged product and return the place of its item. `staging` is used up.

        Where the same work was published meanwhile, by another run, its files stay as they are. An item of the same id
        and other work is replaced. What is read and written does not depend on how many items there are.

        Args:
            staging: folder with all files that the item's assets name; from `staging()`.
            item: the product's item, hrefs relative to itself.
            source_collection: carries licence, providers and keywords into the collection.
        """
        document = self._finished(item)
        self._check(staging, document)
        with self.target.exclusive():
            node = self._links.node_for(document, self._links.held(item.id))
            self._put(staging, placed(document, node))
            if source_collection is not None:
                self.target.update(self._links.source_name, lambda _: dict(source_collection))
            self._links.link({node: {item.id}}, version_of(document))
            self._read_back(item.id, node)
        return self.place_of(item.id)

    def withdraw(self, item_id: str) -> None:
        """Take an item out of the collection; nothing happens where there is none."""
        if not self._links.is_there(check_id(item_id)):
            return
        with self.target.exclusive():
            nodes, day = self._links.nodes_of(item_id), day_of(self._links.held(item_id))
            # Its link goes first: a link never points to what is not there.
            self._links.link({node: {item_id} for node in nodes}, without=item_id)
            self.target.remove(self.collection_id, item_id)
            # Another publisher may have linked it once more in between.
            self._links.link({node: {item_id} for node in nodes})
            self._links.clear(nodes)
            if day:
                self._settle(item_id, day)

    def repair(self, older_than_s: float = _ABANDONED_S) -> Survey:
        """Link products that a crash left without a link, and drop links of products that were removed.

        Costs one listing of the products and one reading of the links, and returns what the links say.

        Writes only where something is inconsistent. What crashes left behind is cleared away.

        Args:
            older_than_s: files that belong to no product are left alone until they are older, seconds: another
                process may be about to publish them.
        """
        survey, sound = self._links.inspected(self.target.sweep(self.collection_id, older_than_s))
        if sound:
            return survey
        with self.target.exclusive():
            self._links.repair()
            return survey_of(self.target, self.collection_id, strict=False)

    def require_writable(self) -> None:
        """Raise unless the catalog can be written."""
        self.target.require_writable()

    def _settle(self, item_id: str, day: str) -> None:
        versions = self.versions(item_id, day)
        changed = {str(document["id"]): document for document in in_succession(versions) if document not in versions}
        for name, document in changed.items():
            self.target.update(self._links.item_name(name), _replacing(document))
            if (node := node_of(document)) is not None:
                self._links.link({node: {name}})  # links record versions

    def _finished(self, item: pystac.Item) -> dict[str, Any]:
        """Return the item's document with its place in the catalog."""
        check_id(item.id)
        up = {
            "rel": "collection",
            "href": "../collection.json",
            "type": "application/json",
            "title": collection_title(self.collection_id),
        }
        root = {"rel": "root", "href": "../../catalog.json", "type": "application/json", "title": CATALOG_TITLE}
        document = item.to_dict(include_self_link=False, transform_hrefs=False)
        kept = [link for link in document["links"] if link["rel"] not in ("root", "parent", "collection", "self")]
        document |= {"collection": self.collection_id, "links": [root, up, *kept]}
        return placed(document, month_of(document))

    def _check(self, staging: Path, document: Mapping[str, Any]) -> None:
        validate_item(document)
        for problem in file_problems(staging, document):
            raise InvalidProduct(f"Item {document['id']}: {problem}; run it again.")

    def _put(self, staging: Path, document: Document) -> None:
        """Put a product in place unless it is there."""
        if self.target.holds(self.collection_id, document):
            shutil.rmtree(staging, ignore_errors=True)
        else:
            self.target.add(self.collection_id, staging, document)

    def _read_back(self, item_id: str, node: Node) -> None:
        try:
            found = pystac.Item.from_dict(self._read(self._links.item_name(item_id)))
            document = self._read(f"{self.collection_id}/{node.name}")
            pystac.Catalog.from_dict(document)
        except (STACError, ValueError, KeyError) as error:
            raise InvalidProduct(f"Item {item_id} cannot be read back ({error}); publish it again.") from error
        if found.id not in items_in(document):
            raise InvalidProduct(f"Item {item_id} was written but is not linked; publish it again.")

    def _read(self, name: str) -> Document:
        found = self.target.read(name)
        if found is None:
            raise InvalidProduct(f"{self.root / name} was written but is not there; publish it again.")
        return found

    @property
    def _links(self) -> CollectionLinks:
        return CollectionLinks(self.target, self.collection_id)


def _replacing(document: Document) -> Callable[[Document | None], Document | None]:
    """Return what puts a document in the place of another, and nothing where there is none."""
    return lambda current: None if current is None else document


def day_of(document: Mapping[str, Any] | None) -> str:
    """Return when an item was acquired, or its period begins; empty where that is unknown."""
    properties = (document or {}).get("properties", {})
    return str(properties.get("datetime") or properties.get("start_datetime") or "")
