"""Logins and signatures of addresses: taken off at the door, kept in the memory of the process, put back when asking.

An address that a user or a catalog gives may hold `user:password@` or a signature in its query. Everything behind the
door sees it without: what is written, shown or stored holds no secret, because nothing secret is in it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from stac.access.addresses import is_web
from stac.access.redaction import holds_secret, without_secret

_LOCK = threading.Lock()
#: Queries by address without secrets, and (user, password) by scheme and host.
_QUERIES: dict[str, str] = {}
_LOGINS: dict[str, tuple[str, str]] = {}
#: Addresses that are remembered; a search is bounded long before.
_MOST = 1_000_000


def keep(address: str) -> str:
    """Return a web address without its secrets, and remember them for requests of this process."""
    if not is_web(address) or not holds_secret(address):
        return address
    plain, parts = without_secret(address), urlsplit(address)
    with _LOCK:
        if "@" in parts.netloc:
            _LOGINS[_origin(plain)] = (unquote(parts.username or ""), unquote(parts.password or ""))
        if parts.query != urlsplit(plain).query and len(_QUERIES) < _MOST:
            _QUERIES[plain] = parts.query
    return plain


def with_query(address: str) -> str:
    """Return an address as it was before its query was taken off."""
    query = _QUERIES.get(address)
    return address if query is None else urlsplit(address)._replace(query=query).geturl()


def login_of(address: str) -> tuple[str, str] | None:
    """Return user name and password for the server of an address, None where none is known."""
    return _LOGINS.get(_origin(address))


Kept = tuple[Mapping[str, str], Mapping[str, tuple[str, str]]]


def kept() -> Kept:
    """Return all that is remembered, for the memory of another process."""
    with _LOCK:
        return dict(_QUERIES), dict(_LOGINS)


def take(found: Kept) -> None:
    """Remember what another process does."""
    with _LOCK:
        _QUERIES.update(found[0])
        _LOGINS.update(found[1])


def _origin(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme.lower()}://{parts.netloc.rpartition('@')[2].lower()}"
