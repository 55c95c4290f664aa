"""What does not fit together between the links of a collection and the items that are there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from stac.tree.nodes import Node
from stac.tree.upkeep import Survey


@dataclass(slots=True)
class Flaws:
    """What crashes, people and older versions leave behind."""

    #: Items that no node links to, those that the collection links to itself among them.
    unlinked: list[str]
    #: Nodes to be written anew, with the ids of the items they wrongly link to.
    nodes: dict[Node, set[str]] = field(default_factory=dict)
    #: The collection links to items itself.
    flat: bool = False

    @property
    def any(self) -> bool:
        """Whether anything is amiss."""
        return bool(self.unlinked or self.nodes or self.flat)


def flaws_of(survey: Survey, present: Collection[str]) -> Flaws:
    """Compare the links of a collection with the ids of the items that are there."""
    there, seen = set(present), set[str]()
    found = Flaws([], {node: set() for node in survey.amiss}, flat=bool(survey.flat))
    for node, links in survey.items.items():
        if node is None:
            continue
        wrong = links.keys() - there
        # Of two links to an item one is wrong: both are made anew from the item.
        twice = links.keys() & seen
        for item_id in twice:
            for holder in survey.holders(item_id):
                found.nodes.setdefault(holder, set()).add(item_id)
        if wrong:
            found.nodes.setdefault(node, set()).update(wrong)
        seen |= links.keys()
    found.unlinked = sorted(there - seen)
    return found
