"""The links of one collection, from the root to its items: what they say, where items differ, and repair."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from stac.catalog.documents import (
    collection_document,
    collection_title,
    is_listed,
    node_document,
    with_collections,
)
from stac.catalog.store_s3 import Target
from stac.catalog.tree import (
    Document,
    Link,
    Node,
    child_link,
    contents_of,
    day_of,
    foreign_links,
    is_sound,
    item_link,
    item_name,
    items_in,
    links_of,
    month_of,
    node_of,
    nodes_in,
    page_of,
    total,
)
from stac.errors import InvalidProduct

ROOT = "catalog.json"


@dataclass(slots=True)
class Survey:
    """What was found from the collection on."""

    #: Links to items by item id, by the node that holds them.
    items: dict[Node, dict[str, Link]] = field(default_factory=dict)
    #: Nodes that are missing, unreadable, or hold something else than the link to them says.
    inconsistent: set[Node] = field(default_factory=set)
    #: The collection, None where it is not there or cannot be read.
    collection: Document | None = None

    @property
    def links(self) -> dict[str, Link]:
        """All links to items by item id."""
        return {item_id: link for links in self.items.values() for item_id, link in links.items()}

    def holders(self, item_id: str) -> list[Node]:
        """Return the nodes that link to an item; more than one where somebody copied a link."""
        return [node for node, links in self.items.items() if item_id in links]

    def repairs(self, present: Collection[str]) -> tuple[list[str], dict[Node, set[str]]]:
        """Compare the links with the ids of the items that are there.

        Returns:
            Items that no node links to, and nodes to be written anew, with the ids of the items they wrongly link to.
        """
        there, seen = set(present), set[str]()
        nodes = {node: set[str]() for node in self.inconsistent}
        for node, links in self.items.items():
            if wrong := links.keys() - there:
                nodes.setdefault(node, set()).update(wrong)
            # Of two links to an item one is wrong: both are made anew from the item.
            for item_id in links.keys() & seen:
                for holder in self.holders(item_id):
                    nodes.setdefault(holder, set()).add(item_id)
            seen |= links.keys()
        return sorted(there - seen), nodes


def survey_of(target: Target, collection_id: str, *, strict: bool = True) -> Survey:
    """Visit all nodes, level by level; a document that cannot be read is an error, or, not strict, not there."""
    found = Survey()
    try:
        found.collection = target.read(f"{collection_id}/collection.json")
    except InvalidProduct:
        if strict:
            raise
    _walk(target, collection_id, nodes_in(found.collection, None), found, strict=strict)
    return found


def ids_below(target: Target, collection_id: str, node: Node) -> list[str]:
    """Return the ids of the items that a node and the nodes below it link to, sorted."""
    found = Survey()
    _walk(target, collection_id, {node: {}}, found, strict=True)
    return sorted(found.links)


def _walk(target: Target, collection_id: str, level: Mapping[Node, Link], found: Survey, *, strict: bool) -> None:
    """Read nodes, and all below them, level by level."""
    while level:
        names = {node: f"{collection_id}/{node.name}" for node in level}
        documents = _read_all(target, names.values(), strict=strict)
        below: dict[Node, Link] = {}
        for node, name in names.items():
            document = documents.get(name)
            if document is None or not is_sound(level[node], document):
                found.inconsistent.add(node)
            if document is not None:
                found.items[node] = items_in(document)
                below |= nodes_in(document, node)
        level = below


def _read_all(target: Target, names: Collection[str], *, strict: bool) -> dict[str, Document]:
    try:
        return target.read_many(names)
    except InvalidProduct:
        if strict:
            raise
    documents: dict[str, Document] = {}
    for name in names:
        with suppress(InvalidProduct):  # its items are found without a link, and linked anew
            documents |= target.read_many([name])
    return documents


@dataclass(frozen=True, slots=True)
class CollectionLinks:
    """All documents between a catalog's root and the items of one collection.

    Every method may raise `InvalidProduct`, where an item has no date or a document cannot be read, or `PublishError`.
    """

    target: Target
    #: Its id and the name of its folder.
    collection_id: str

    def node_for(self, item: Document, held: Document | None, counts: dict[Node, int] | None = None) -> Node:
        """Return the node an item is to be linked from: where it is already, or the first of its date with room.

        Args:
            item: the item's document.
            held: the document of the same id that is published already, None without one.
            counts: how many items each node holds, none where it is not named; the item is added. Read when left out.
        """
        if held is not None and (current := node_of(held)) is not None:
            return current
        if counts is None:
            counts = self._counts(item)
        node = next(node for node in _choices(day_of(item)) if counts.get(node, 0) < node.room)
        counts[node] = counts.get(node, 0) + 1
        return node

    def _counts(self, item: Document) -> dict[Node, int]:
        """Return how many items the nodes hold that an item may go to; those below are read only where one is full."""
        month, day = month_of(item), day_of(item)
        counts = {month: len(items_in(self.read(month)))}
        if counts[month] >= month.room:
            document = self.read(day)
            pages = nodes_in(document, day)
            counts |= {day: len(items_in(document))} | {page: contents_of(pages[page]).items for page in pages}
        return counts

    def read(self, node: Node) -> Document | None:
        """Return the document of a node, None where there is none."""
        return self.target.read(self._name(node))

    def of_day(self, item_id: str, day: str) -> list[str]:
        """Return the ids of the linked items of the month of an acquisition, and of its day where that has a node.

        Args:
            item_id: an item, for messages.
            day: when it was acquired, RFC 3339.
        """
        item = {"id": item_id, "properties": {"datetime": day}}
        month, date = self.read(month_of(item)), self.read(day_of(item))
        pages = [self.read(page) for page in nodes_in(date, day_of(item))]
        return sorted({name for document in (month, date, *pages) for name in items_in(document)})

    def link_nodes(
        self, leaves: Mapping[Node, Collection[str]], without: str | None = None, *, repair: bool = False
    ) -> set[Node]:
        """Write nodes so that they link to exactly what is there, from the leaves up; return the years touched.

        Args:
            leaves: ids of the items that came, changed or went, by the node concerned.
            without: id of an item that is about to go.
            repair: a node that cannot be read is written anew.
        """
        below: dict[Node | None, set[Node]] = defaultdict(set)
        touched = {node for leaf in leaves for node in leaf.way}
        for node in touched:
            below[node.above].add(node)
        for node in sorted(touched, reverse=True):  # those below a node come before it
            self._link_node(node, leaves.get(node, ()), below[node], without, repair=repair)
        return below[None]

    def _link_node(
        self, node: Node, item_ids: Collection[str], touched: Iterable[Node], without: str | None, *, repair: bool
    ) -> None:
        """Write a node, with its links to some items and to some nodes right below it as these are now."""
        names = {item_id: item_name(self.collection_id, item_id) for item_id in sorted(item_ids) if item_id != without}

        def build(current: Document | None) -> Document | None:
            links = items_in(current)
            found = self.target.read_many(names.values())
            for item_id in item_ids:
                document = found.get(names.get(item_id, ""))
                links.pop(item_id, None)
                # An item whose link to its parent somebody removed stays where it is linked.
                if document is not None and node_of(document) in (node, None):
                    links[item_id] = item_link(node, document)
            children = self.children(current, node, touched)
            if current is None and not links and not children:
                return None
            return node_document(self.collection_id, node, links, [*foreign_links(current, node), *children])

        self.target.update(self._name(node), build, repair=repair)

    def children(self, current: Document | None, above: Node | None, touched: Iterable[Node]) -> list[Link]:
        """Return the links of a document to its nodes, those to `touched` ones as these are now; empty ones go.

        A link whose sum is damaged is made anew, too.
        """
        links = nodes_in(current, above)
        for node in {*touched, *(node for node, link in links.items() if not is_sound(link))}:
            links.pop(node, None)
            contents = contents_of(self.read(node) or {})
            if contents.items:
                links[node] = child_link(node, contents)
        return [links[node] for node in sorted(links)]

    def _name(self, node: Node) -> str:
        return f"{self.collection_id}/{node.name}"

    def link(self, leaves: Mapping[Node, Collection[str]], version: str = "", *, without: str | None = None) -> None:
        """Write all documents from the nodes concerned up to the root; see `link_nodes`."""
        self._link_collection(self.link_nodes(leaves, without), version)

    def _link_collection(self, years: Iterable[Node], version: str, *, repair: bool = False) -> None:
        def collection(current: Document | None) -> Document | None:
            children = self.children(current, None, years)
            if current is None and not children:
                return None
            latest = total(contents_of(link) for link in children).latest
            item = self.held(latest.id) if latest else None
            source = self.target.read(self.source_name)
            return collection_document(self.collection_id, current, children, source, item, version)

        self.target.update(self.collection_name, collection, repair=repair)
        self.target.update(ROOT, self._root, repair=repair)

    def _root(self, current: Document | None) -> Document | None:
        """Return the root catalog; a collection without items is not listed."""
        listed = bool(contents_of(self.target.read(self.collection_name) or {}).items)
        titles = {self.collection_id: collection_title(self.collection_id) if listed else None}
        if current is None:
            others = (f"{name}/collection.json" for name in self.target.collection_ids() if name not in titles)
            found = self.target.read_many(others)
            titles |= {name.partition("/")[0]: str(d.get("title", d.get("id"))) for name, d in found.items()}
        return with_collections(current, titles) if current or any(titles.values()) else None

    def inspected(self, present: Collection[str]) -> tuple[Survey, bool]:
        """Return what the links say, and whether they fit to each other and to the items that are there.

        Args:
            present: ids of the items that are there.
        """
        survey = survey_of(self.target, self.collection_id, strict=False)
        if any(survey.repairs(present)):
            return survey, False
        try:
            listed = is_listed(self.target.read(ROOT), self.collection_id)
            return survey, listed == bool(contents_of(survey.collection or {}).items)
        except InvalidProduct:
            return survey, False

    def repair(self) -> None:
        """Make every link agree with the items that are there; the collection comes after all nodes."""
        survey = survey_of(self.target, self.collection_id, strict=False)
        unlinked, leaves = survey.repairs(self.target.item_ids(self.collection_id))
        counts = {node: len(links) for node, links in survey.items.items()}
        version = ""
        for batch in _batches(unlinked):
            for document in self.target.read_many(self.item_name(item_id) for item_id in batch).values():
                node = self.node_for(document, document, counts)
                leaves.setdefault(node, set()).add(str(document["id"]))
                version = version_of(document)
        years = self.link_nodes(leaves, repair=True)
        self._link_collection(years, "" if survey.collection else version, repair=True)
        self.clear(leaves)

    def clear(self, nodes: Iterable[Node]) -> None:
        """Remove nodes, and those above them, that hold nothing, and the collection with its last item."""
        collection = self.target.read(self.collection_name)
        if collection is None or contents_of(collection).items:
            touched = {above for node in nodes for above in node.way}
            found = {node: self.read(node) for node in sorted(touched, reverse=True)}
            self.target.prune(self._name(node) for node, document in found.items() if _is_empty(document))
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
        if (named := node_of(self.held(item_id) or {})) is not None:
            return [named]
        return survey_of(self.target, self.collection_id, strict=False).holders(item_id)

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
        return item_name(self.collection_id, item_id)


def _choices(day: Node) -> Iterator[Node]:
    """Yield the nodes that an item of a day may go to, the best one first."""
    yield from (Node(day.path[:2]), day)
    number = 1
    while True:
        yield page_of(day, number)
        number += 1


def _is_empty(document: Document | None) -> bool:
    return document is not None and not (links_of(document, "item") or links_of(document, "child"))


def version_of(document: Mapping[str, Any]) -> str:
    """Return the version of this software that made an item."""
    return str(document.get("properties", {}).get("processing:software", {}).get("unveil-eo", ""))


def _batches(item_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield some hundred ids at a time: documents of many items are not held at once."""
    for start in range(0, len(item_ids), 500):
        yield item_ids[start : start + 500]
