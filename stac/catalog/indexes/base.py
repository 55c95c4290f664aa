"""Searchable copies of a catalog: opening one by its address, and comparing what it holds with the catalog.

The catalog is what is true; an index is made to follow it and may be made anew from it at any time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

from stac.catalog.tree import Document
from stac.errors import IndexNotUpdated, InvalidQuery
from stac.io.http import RetryPolicy

if TYPE_CHECKING:
    from stac.catalog.indexes.api import ApiIndex
    from stac.catalog.indexes.pgstac import PgstacIndex

    #: Items of several collections, found by place, time and property; both have the methods of `ApiIndex`.
    Index: TypeAlias = ApiIndex | PgstacIndex

#: Environment variable with the bearer token of STAC APIs.
TOKEN_VARIABLE = "UNVEIL_INDEX_TOKEN"  # noqa: S105 - the name of a variable
_DATABASE = frozenset({"postgresql", "postgres"})
_WEB = frozenset({"http", "https"})
#: Links that a service makes of its own addresses.
STRUCTURAL = frozenset({"self", "root", "parent", "collection", "items", "item", "child", "children"})
#: Databases keep coordinates in binary; this is far below a millimetre on the ground, degrees.
_TOLERANCE = 1e-9


def open_index(address: str, retry_policy: RetryPolicy | None = None) -> Index:
    """Return the index at an address, reachable and ready.

    Args:
        address: `https://HOST/PATH` of a STAC API with transactions, or `postgresql://USER@HOST/DATABASE` with
            pgstac. A database's password may stand in it, in `PGPASSWORD` or in `~/.pgpass`.
        retry_policy: how it is waited for.

    Raises:
        InvalidQuery: the address is none of an index.
        MissingExtra: pypgstac is not installed.
        IndexNotUpdated: it does not answer, refuses, or is not an index.
    """
    if problem := _problem(address):
        raise InvalidQuery(problem)
    if urlsplit(address).scheme in _DATABASE:
        # The library behind it is an extra.
        from stac.catalog.indexes.pgstac import PgstacIndex

        return PgstacIndex(address, retry_policy or RetryPolicy())
    from stac.catalog.indexes.api import ApiIndex

    return ApiIndex(address, os.environ.get(TOKEN_VARIABLE, ""), retry_policy or RetryPolicy())


def _problem(address: str) -> str:
    """Return what is wrong with an address, empty when nothing is."""
    parts = urlsplit(address)
    if parts.scheme not in _DATABASE | _WEB or not (parts.hostname or parts.scheme in _DATABASE):
        return f"{index_label(address)!r} is not an index; write https://HOST/PATH or postgresql://USER@HOST/DATABASE."
    if parts.scheme in _WEB and (parts.username or parts.query):
        return f"{index_label(address)} must hold no login and no query; give its token as {TOKEN_VARIABLE}."
    return ""


def index_label(address: str) -> str:
    """Return an address for people, without password and options."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    user = f"{parts.username}@" if parts.username and parts.scheme in _DATABASE else ""
    return parts._replace(netloc=f"{user}{host}", query="", fragment="").geturl()


def index_secret(address: str) -> str:
    """Return the password in an address, empty where there is none."""
    try:
        parts = urlsplit(address)
    except ValueError:  # it is not an address, which is said where it is opened
        return ""
    return parts.password or next(iter(parse_qs(parts.query).get("password", [])), "")


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


def difference(sent: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Return the name of the first field that was lost or changed; empty where none was.

    Null and absent are the same, as are two ways to write one instant. Structural links are not looked at, others are
    compared by relation and address.
    """
    held = dict(_leaves(found))
    lost = (name for name, value in _leaves(sent) if not _same(value, held.get(name)))
    return next(lost, "") or _lost_link(sent, found)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield name and value of each text, number and null in a document, and the length of each list."""
    if isinstance(value, Mapping):
        for key, member in value.items():
            if name or key != "links":
                yield from _leaves(member, f"{name}.{key}" if name else key)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield name, len(value)
        for at, member in enumerate(value):
            yield from _leaves(member, f"{name}[{at}]")
    else:
        yield name, value


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
