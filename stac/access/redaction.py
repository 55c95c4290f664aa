"""Keeping tokens out of messages: what follows the question mark of an address is nobody's business."""

from __future__ import annotations

import re

_QUERY = re.compile(r"(https?://[^\s?'\"<>]*|/vsi[a-z0-9]+/[^\s?'\"<>]*)\?[^\s'\"<>)]*", re.IGNORECASE)
_LOGIN = re.compile(r"(https?://)[^\s/@'\"]+@", re.IGNORECASE)
#: Fields of a signature wherever they stand, also in an error text of a server.
_FIELD = re.compile(r"\b((?:x-amz-)?(?:sig|signature|token|security-token|credential))=[^\s&'\"<>]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Return a message without the query strings, logins and signatures of the addresses in it."""
    without_queries = _QUERY.sub(r"\1?...", text)
    return _FIELD.sub(r"\1=...", _LOGIN.sub(r"\1", without_queries))
