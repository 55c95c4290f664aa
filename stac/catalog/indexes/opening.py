"""Which kind of index an address means."""

from __future__ import annotations

import os
from urllib.parse import parse_qs, urlsplit

from stac.catalog.indexes.base import Index
from stac.errors import InvalidQuery
from stac.io.http import RetryPolicy

#: Environment variable with the bearer token of STAC APIs.
TOKEN_VARIABLE = "UNVEIL_INDEX_TOKEN"  # noqa: S105 - the name of a variable
_DATABASE = frozenset({"postgresql", "postgres"})
_WEB = frozenset({"http", "https"})


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


__all__ = ["Index", "index_label", "index_secret", "open_index"]
