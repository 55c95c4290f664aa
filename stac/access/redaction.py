"""Keeping secrets out of messages and documents: logins and signatures of addresses are nobody's business."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_QUERY = re.compile(r"(https?://[^\s?'\"<>]*|/vsi[a-z0-9]+/[^\s?'\"<>]*)\?[^\s'\"<>)]*", re.IGNORECASE)
_LOGIN = re.compile(r"(https?://)[^\s/@'\"]+@", re.IGNORECASE)
#: Of a database: its user may be seen.
_PASSWORD = re.compile(r"\b([a-z][a-z0-9+.-]*://[^\s/:@'\"]*):[^\s/'\"]*@", re.IGNORECASE)
#: Fields of a signature or a login wherever they stand, also in an error text of a server.
_NAMES = (
    r"(?:x-amz-)?(?:sig|signature|token|security-token|credential)|password|passwd|access_token|client_secret|api_?key"
)
_FIELD = re.compile(rf"\b({_NAMES})=[^\s&'\"<>]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Return a message without the query strings, logins and signatures of the addresses in it."""
    plain = _LOGIN.sub(r"\1", _QUERY.sub(r"\1?...", text))
    return _FIELD.sub(r"\1=...", _PASSWORD.sub(r"\1:...@", plain))


def holds_secret(address: str) -> bool:
    """Tell whether an address holds a login or a signature."""
    try:
        parts = urlsplit(address)
    except ValueError:  # it is no address, which is told where it is opened
        return "@" in address
    return "@" in parts.netloc or _FIELD.search(parts.query) is not None


def without_secret(address: str) -> str:
    """Return an address that may be published: without login, and without a query that holds a signature."""
    parts = urlsplit(address)
    query = "" if _FIELD.search(parts.query) else parts.query
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query).geturl()
