"""Searchable copies of a catalog: the interface, and the comparison with the catalog."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from stac.errors import IndexNotUpdated

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
                f"{label} accepted item {item['id']} but changed it ({where}); it would show users something else "
                "than the catalog, so correct the service, then run `unveil publish --index`."
            )


#: Links that a service makes of its own addresses.
STRUCTURAL = frozenset({"self", "root", "parent", "collection", "items", "item", "child", "children"})
#: Databases keep coordinates in binary; this is far below a millimetre on the ground, degrees.
_TOLERANCE = 1e-9


def difference(sent: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Return the name of the first field that was lost or changed; empty where none was.

    Null and absent are the same, as are two ways to write one instant. Structural links are not looked at, others are
    compared by relation and address.
    """
    documents = [{name: value for name, value in each.items() if name != "links"} for each in (sent, found)]
    return _changed(documents[0], documents[1], "") or _lost_link(sent, found)


def _changed(sent: Any, found: Any, name: str) -> str:
    if isinstance(sent, Mapping):
        return _changed_in(sent, found, name)
    if isinstance(sent, Sequence) and not isinstance(sent, str):
        return _changed_at(sent, found, name)
    return "" if _same(sent, found) else name or "document"


def _changed_in(sent: Mapping[str, Any], found: Any, name: str) -> str:
    if not isinstance(found, Mapping):
        return name or "document"
    inside = (_changed(value, found.get(key), f"{name}.{key}".lstrip(".")) for key, value in sent.items())
    return next((where for where in inside if where), "")


def _changed_at(sent: Sequence[Any], found: Any, name: str) -> str:
    if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != len(sent):
        return name
    inside = (_changed(one, other, f"{name}[{i}]") for i, (one, other) in enumerate(zip(sent, found, strict=True)))
    return next((where for where in inside if where), "")


def _same(sent: Any, found: Any) -> bool:
    if isinstance(sent, bool) or isinstance(found, bool) or sent is None:
        return bool(sent == found)
    if isinstance(sent, int | float) and isinstance(found, int | float):
        return math.isclose(sent, found, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return bool(sent == found) or ((instant := _instant(sent)) is not None and instant == _instant(found))


def _instant(value: Any) -> datetime | None:
    """Return the time that a text means (RFC 3339), None where it means none."""
    if not isinstance(value, str) or len(value) < len("2023-08-18T10:05Z"):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _lost_link(sent: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    held = {(link.get("rel"), link.get("href")) for link in found.get("links", [])}
    lost = [link for link in sent["links"] if link["rel"] not in STRUCTURAL and (link["rel"], link["href"]) not in held]
    return f"link {lost[0]['rel']} to {lost[0]['href']}" if lost else ""
