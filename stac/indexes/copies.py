"""The documents of a catalog as an index holds them: the same, with absolute addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin

from stac.access.locations import Location, S3Location
from stac.errors import InvalidQuery
from stac.indexes.base import Document
from stac.sources.hrefs import is_remote, resolve

#: An index lists items and children itself.
_LISTING = frozenset({"item", "items", "child", "children"})


@dataclass(frozen=True, slots=True)
class PublicPlace:
    """Where a catalog lies, and the address under which readers of its copies reach it."""

    root: Location
    #: The catalog's own place when empty.
    address: str = ""

    def of(self, place: Location) -> str:
        """Return the public address of a file of the catalog.

        Raises:
            InvalidQuery: the public address is none.
        """
        return f"{self._base}/{self.name_of(place)}"

    def name_of(self, place: Location) -> str:
        """Return the path of a file of the catalog below its root, with forward slashes."""
        if isinstance(place, S3Location) and isinstance(self.root, S3Location):
            return place.key.removeprefix(self.root.key).lstrip("/")
        return PurePosixPath(Path(str(place)).relative_to(str(self.root))).as_posix()

    @property
    def _base(self) -> str:
        if not self.address:
            # A bare path would be taken for one on the index's own server.
            return self.root.resolve().as_uri() if isinstance(self.root, Path) else str(self.root)
        if not is_remote(self.address):
            raise InvalidQuery(f"public_root {self.address!r} is no address; write https://HOST/PATH or s3://BUCKET.")
        return self.address.rstrip("/")


def copy_of(document: Mapping[str, Any], place: Location, public: PublicPlace) -> Document:
    """Return an item or a collection with absolute hrefs, a `self` that is true, and a `canonical` link to it.

    Args:
        document: as it lies in the catalog, hrefs relative to itself.
        place: where it lies there.
        public: where readers find the catalog.

    Raises:
        UnsafeHref: an href leads nowhere.
    """
    address = public.of(place)
    links = [link for link in document.get("links", []) if link["rel"] not in {*_LISTING, "self", "canonical"}]
    media_type = "application/geo+json" if document.get("type") == "Feature" else "application/json"
    here = {"href": address, "type": media_type, "title": _title(document)}
    assets = {key: asset | {"href": _absolute(address, asset["href"])} for key, asset in _assets(document).items()}
    return {
        **document,
        "links": [
            {"rel": "self", **here},
            {"rel": "canonical", **here},
            *({**link, "href": _absolute(address, link["href"])} for link in links),
        ],
        **({"assets": assets} if assets else {}),
    }


def _assets(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return dict(document.get("assets") or {})


def _title(document: Mapping[str, Any]) -> str:
    return str(document.get("title") or document.get("properties", {}).get("title") or document["id"])


def _absolute(address: str, href: str) -> str:
    # What is absolute was made public by whoever wrote it; only the catalog's own files move with its address.
    if "://" in href:
        return href
    return resolve(address, href) if is_remote(address) else urljoin(address, href)
