"""What the links of one collection say, node by node, and where that differs from the items that are there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from stac.catalog.contents import is_sound
from stac.catalog.store_s3 import Target
from stac.catalog.tree import Document, Link, Node, items_in, nodes_in
from stac.errors import InvalidProduct


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
