"""The links of one collection: from the nodes that hold its items up to the root document, written and repaired."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stac.catalog.documents import collection_document, heading_of, is_listed, root_document
from stac.catalog.store import Document, Target
from stac.catalog.tree import Node, contents_of, node_of, total
from stac.catalog.upkeep import DateTree, Survey, findings_of
from stac.errors import InvalidProduct

ROOT = "catalog.json"


@dataclass(frozen=True, slots=True)
class CollectionLinks:
    """All documents between a catalog's root and the items of one collection."""

    target: Target
    #: Its id and the name of its folder.
    collection_id: str

    def link(self, leaves: Mapping[Node, Iterable[str]], version: str = "", *, without: str | None = None) -> None:
        """Write all documents from the nodes concerned up to the root; see `DateTree.link`."""
        self._link_collection(self.tree.link(leaves, without), version)

    def _link_collection(self, years: Iterable[Node], version: str, *, repair: bool = False) -> None:
        def collection(current: Document | None) -> Document | None:
            children = self.tree.children(current, None, years)
            if current is None and not children:
                return None
            latest = total(contents_of(link) for link in children).latest
            item = self.held(latest.item_id) if latest else None
            source = self.target.read(self.source_name)
            return collection_document(self.collection_id, current, children, source, item, version)

        self.target.update(self.collection_name, collection, repair=repair)
        self.target.update(ROOT, self._root, repair=repair)

    def _root(self, current: Document | None) -> Document | None:
        """Return the root catalog; a collection without items is not listed."""
        collection = self.target.read(self.collection_name)
        listed = bool(contents_of(collection or {}).items)
        if current is not None:
            return root_document(current, self.collection_id, listed=listed)
        ids = [name for name in self.target.collection_ids() if name != self.collection_id]
        if not (listed or ids):
            return None
        documents = self.target.read_many(f"{name}/collection.json" for name in ids)
        others = [(name.partition("/")[0], str(d.get("title", d.get("id")))) for name, d in documents.items()]
        return root_document(None, self.collection_id, listed=listed, others=others)

    def inspected(self, present: Collection[str]) -> tuple[Survey, bool]:
        """Return what the links say, and whether they fit to each other and to the items that are there.

        Args:
            present: ids of the items that are there.
        """
        survey, collection = self.surveyed()
        if findings_of(survey, present).any:
            return survey, False
        try:
            listed = is_listed(self.target.read(ROOT), self.collection_id)
        except InvalidProduct:
            return survey, False
        return survey, listed == bool(contents_of(collection or {}).items)

    def surveyed(self) -> tuple[Survey, Document | None]:
        """Return what the links say, and the collection; what cannot be read counts as not there."""
        try:
            collection = self.target.read(self.collection_name)
        except InvalidProduct:
            collection = None
        return self.tree.survey(collection, strict=False), collection

    def repair(self) -> None:
        """Make every link agree with the items that are there; the collection comes after all nodes."""
        survey, collection = self.surveyed()
        findings = findings_of(survey, self.target.item_ids(self.collection_id))
        leaves, counts = findings.nodes, {node: len(links) for node, links in survey.items.items()}
        version = ""
        for batch in _batches(findings.unlinked):
            for document in self.target.read_many(self.item_name(item_id) for item_id in batch).values():
                node = self.tree.node_for(document, document, counts)
                leaves.setdefault(node, set()).add(str(document["id"]))
                version = version_of(document)
        years = self.tree.link(leaves, repair=True)
        self._link_collection(years, "" if collection else version, repair=True)
        self.clear(leaves)

    def clear(self, nodes: Iterable[Node]) -> None:
        """Remove nodes that hold nothing any more, and the collection with its last item."""
        collection = self.target.read(self.collection_name)
        if collection is None or contents_of(collection).items:
            self.target.prune(self.tree.empty(nodes))
        elif not self.target.item_ids(self.collection_id):
            self.target.remove_collection(self.collection_id)

    def held(self, item_id: str) -> Document | None:
        """Return the document of an item, None where there is none or it cannot be read."""
        try:
            return self.target.read(self.item_name(item_id))
        except InvalidProduct:
            return None

    def is_there(self, item_id: str) -> bool:
        """Return whether an item has a document, be it a damaged one."""
        try:
            return self.target.read(self.item_name(item_id)) is not None
        except InvalidProduct:
            return True

    def nodes_of(self, item_id: str) -> list[Node]:
        """Return the nodes that may link to an item: the one it names, else all that do."""
        named = node_of(self.held(item_id) or {})
        return [named] if named is not None else self.surveyed()[0].holders(item_id)

    @property
    def tree(self) -> DateTree:
        """The nodes by year, month and day."""
        return DateTree(self.target, heading_of(self.collection_id))

    @property
    def collection_name(self) -> str:
        """Name of the collection's document."""
        return f"{self.collection_id}/collection.json"

    @property
    def source_name(self) -> str:
        """Name of the source collection's document, which licence and providers come from."""
        return f"{self.collection_id}/.source-collection.json"

    def item_name(self, item_id: str) -> str:
        """Return the name of an item's document."""
        return f"{self.collection_id}/{item_id}/{item_id}.json"


def version_of(document: Mapping[str, Any]) -> str:
    """Return the version of this software that made an item."""
    return str(document.get("properties", {}).get("processing:software", {}).get("unveil-eo", ""))


def _batches(item_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield some hundred ids at a time: documents of many items are not held at once."""
    for start in range(0, len(item_ids), 500):
        yield item_ids[start : start + 500]
