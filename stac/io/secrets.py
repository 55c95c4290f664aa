"""Keep credentials and signatures of addresses out of messages, logs and documents."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from stac.io.addresses import is_web

_LOCK = threading.Lock()
#: Queries by address without secrets, and (user, password) by scheme and host.
_QUERIES: dict[str, str] = {}
_LOGINS: dict[str, tuple[str, str]] = {}
#: Addresses that are remembered; a search is bounded long before.
_MOST = 1_000_000
Kept = tuple[Mapping[str, str], Mapping[str, tuple[str, str]]]
#: Parts of a query that say what is wanted, not who asks. All others may be secrets.
_HARMLESS = frozenset({
    "asset", "assets", "bands", "bbox", "collection", "collections", "crs", "datetime", "f", "filter", "filter-lang",
    "format", "id", "ids", "item", "lang", "limit", "next", "offset", "page", "resampling", "sortby", "version",
    "versionid",
})  # fmt: skip
_QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?'\"<>]*|/vsi[a-z0-9]+/[^\s?'\"<>]*)\?[^\s'\"<>)]*", re.IGNORECASE)
#: Up to the last @ before the path: a password may hold one.
_LOGIN = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s/'\"<>]*@", re.IGNORECASE)
#: Of a database: its user may be seen.
_DATABASE = re.compile(r"\b(postgres(?:ql)?(?:\+[a-z0-9]+)?://[^\s/:@'\"]*)(:[^\s/'\"]*)?@", re.IGNORECASE)
_SHOWN = "\0"
#: `name=value` of a secret wherever it stands, also in an error text of a server.
_FIELD = re.compile(
    r"\b([\w-]*(?:pass|pwd|secret|token|credential|sig|signature|api_?key|subscription-key|access-?key|auth)[\w-]*)"
    r"=[^\s&'\"<>]+",
    re.IGNORECASE,
)


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


def redact(text: str) -> str:
    """Return a message without the query strings, logins and signatures of the addresses in it."""
    plain = _QUERY.sub(r"\1?...", text)
    plain = _DATABASE.sub(lambda m: f"{m[1]}{':...' if m[2] else ''}{_SHOWN}", plain)
    plain = _LOGIN.sub(r"\1", plain).replace(_SHOWN, "@")
    return _FIELD.sub(r"\1=...", plain)


def holds_secret(address: str) -> bool:
    """Return whether an address holds a login, or a query that is not known to be harmless."""
    try:
        parts = urlsplit(address)
    except ValueError:  # it is not an address, which is said where it is opened
        return "@" in address
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    return "@" in parts.netloc or not all(_is_harmless(*pair) for pair in pairs)


def without_secret(address: str) -> str:
    """Return an address that may be published: without login, and with those parts of its query that are harmless."""
    if not holds_secret(address):
        return address
    try:
        parts = urlsplit(address)
    except ValueError:
        return address.partition("?")[0].rpartition("@")[2]
    kept = [
        (name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if _is_harmless(name, value)
    ]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query=urlencode(kept)).geturl()


def _is_harmless(name: str, value: str) -> bool:
    return name.lower() in _HARMLESS and "://" not in value and "@" not in value
