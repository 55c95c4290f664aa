"""What keeping a searchable copy needs of the service that holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from stac.errors import IndexNotUpdated
from stac.indexes.comparison import difference

Document = dict[str, Any]


class Index(Protocol):
    """Items of several collections, found by place, time and property.

    The catalog is what is true; an index is made to follow it and may be made anew from it at any time.
    """

    @property
    def label(self) -> str:
        """Address for people, without secrets."""
        ...

    def put(self, collection: Document, items: Sequence[Document]) -> None:
        """Write a collection and some of its items, new or in place of older ones, and read all of them back.

        Raises:
            IndexNotUpdated: the index refuses, does not answer, or holds something else than what it was given.
        """
        ...

    def remove(self, collection_id: str, item_ids: Iterable[str]) -> None:
        """Take items out; those that are not there are left out already.

        Raises:
            IndexNotUpdated: the index refuses, does not answer, or still holds one.
        """
        ...

    def works(self, collection_id: str) -> dict[str, str]:
        """Return the work id of every item of a collection by item id; none where there is no such collection.

        An item that was not made here has an empty work id.

        Raises:
            IndexNotUpdated: the index does not answer, or its pages do not add up.
        """
        ...

    def close(self) -> None:
        """Give back the connection."""
        ...


def require_same(label: str, sent: Sequence[Document], found: Callable[[str], Mapping[str, Any] | None]) -> None:
    """Do nothing where an index holds what it was given.

    Args:
        label: the index, for the message.
        sent: items as they were given.
        found: returns an item as the index has it, by id.

    Raises:
        IndexNotUpdated: an item is not there, or changed on its way.
    """
    for item in sent:
        held = found(str(item["id"]))
        if held is None:
            raise IndexNotUpdated(
                f"{label} accepted item {item['id']} but does not have it; look into its log, then run "
                "`unveil publish --index` to bring it up to date."
            )
        if where := difference(item, held):
            raise IndexNotUpdated(
                f"{label} accepted item {item['id']} but changed it ({where}); it would tell users something else "
                "than the catalog, so correct the service, then run `unveil publish --index`."
            )
