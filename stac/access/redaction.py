"""Keeping secrets out of messages and documents: logins, signatures and unknown parts of queries are left out."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode, urlsplit

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


def redact(text: str) -> str:
    """Return a message without the query strings, logins and signatures of the addresses in it."""
    plain = _QUERY.sub(r"\1?...", text)
    plain = _DATABASE.sub(lambda m: f"{m[1]}{':...' if m[2] else ''}{_SHOWN}", plain)
    plain = _LOGIN.sub(r"\1", plain).replace(_SHOWN, "@")
    return _FIELD.sub(r"\1=...", plain)


def holds_secret(address: str) -> bool:
    """Tell whether an address holds a login, or a query that is not known to be harmless."""
    try:
        parts = urlsplit(address)
    except ValueError:  # it is no address, which is said where it is opened
        return "@" in address
    return "@" in parts.netloc or _unknown(parts.query)


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


def _unknown(query: str) -> bool:
    return not all(_is_harmless(*pair) for pair in parse_qsl(query, keep_blank_values=True))


def _is_harmless(name: str, value: str) -> bool:
    return name.lower() in _HARMLESS and "://" not in value and "@" not in value
