"""Search a static catalog: its documents, its items, and the shipped sample."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any

import pystac
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from stac.errors import InvalidItem, InvalidQuery, SourceUnavailable, StacError, UnreadableCatalog, UnsafeHref
from stac.grid.footprint import footprint_of
from stac.io.addresses import host_of
from stac.io.http import DEFAULT_RATE, PASSING, RetryPolicy, WebSession
from stac.io.s3 import Objects, S3Options, is_s3, s3_location
from stac.io.signing import Access
from stac.search.acquisitions import instant_of
from stac.search.hrefs import checked_id, is_remote, resolve
from stac.search.source import Query, Skipped, item_from, one_item
from stac.search.versions import newest_versions

#: A longer file is not a STAC document, bytes.
_LARGEST = 64 << 20
#: Reading ends with an error after so many documents or levels: no catalog for one run is larger.
_MOST_DOCUMENTS = 10_000
_DEEPEST = 12
#: The word for the sample that ships with the package.
SAMPLE = "sample"
SAMPLE_COLLECTION = "sentinel-2-l2a"
SAMPLE_INTERVAL = "2023-08-10/2023-08-20"
#: Both areas together; west, south, east, north in degrees.
SAMPLE_BBOX = (15.0, 45.4, 16.5, 46.7)


class CatalogIO(StacApiIO):
    """pystac-client's reader with time-outs, a rate limit, a total time and bounded retries.

    Searches are POST requests that change nothing, so they are tried again like GET.
    """

    def __init__(
        self, retry_policy: RetryPolicy, per_second: float = DEFAULT_RATE, named: Collection[str] = frozenset()
    ) -> None:
        super().__init__(timeout=retry_policy.timeout_s, max_retries=None)
        self.session = WebSession(retry_policy, per_second, named)


def refused(location: str, error: APIError) -> StacError:
    """Return what an API error means: `SourceUnavailable` when it may pass, else `UnreadableCatalog`."""
    if isinstance(error.__context__, StacError):
        return error.__context__
    status = getattr(error, "status_code", None)
    if status is None:
        return SourceUnavailable(
            f"{location} does not answer ({_short(error)}); check the address and try again later."
        )
    phrase = f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
    if status in PASSING:
        return SourceUnavailable(f"{location} answers {phrase}, also after retries; try again later.")
    return UnreadableCatalog(f"{location} answers {phrase}; check the address and the access rights.")


def _short(error: Exception) -> str:
    """Return the innermost reason, without memory addresses and connection pools."""
    text = str(error)
    return text.rsplit("Caused by ", 1)[-1].rsplit(": ", 1)[-1].strip("()'\" ")[:200]


class Documents:
    """Reads JSON documents by absolute path or URL."""

    def __init__(
        self,
        retry_policy: RetryPolicy,
        per_second: float = DEFAULT_RATE,
        s3: S3Options | None = None,
        named: Collection[str] = frozenset(),
    ) -> None:
        self.web = CatalogIO(retry_policy, per_second, named)
        self._objects = Objects(s3 or S3Options(), retry_policy.timeout_s)

    def read(self, href: str) -> dict[str, Any]:
        """Return the JSON object at an absolute path or URL.

        Raises:
            UnreadableCatalog: the file is missing, is not JSON, or holds no object.
            AccessRefused: its bucket does not exist or is denied.
            SourceUnavailable: the server does not answer or refuses for a passing reason.
        """
        try:
            document = json.loads(self._text(href))
        except APIError as error:
            raise refused(href, error) from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UnreadableCatalog(f"{href} cannot be read ({reason}); give the path of a catalog.json.") from error
        except ValueError as error:
            raise UnreadableCatalog(f"{href} is not valid JSON ({error}); repair or remove the file.") from error
        except RecursionError as error:
            raise UnreadableCatalog(f"{href} is nested too deeply to be a STAC document.") from error
        if not isinstance(document, dict):
            raise UnreadableCatalog(f"{href} holds no JSON object, so it is not a STAC document.")
        return document

    def _text(self, href: str) -> str | bytes:
        if is_s3(href):
            found = self._objects.read(s3_location(href))
            if found is None:
                raise UnreadableCatalog(f"{href} does not exist; give the address of a catalog.json.")
            return found
        if is_remote(href):
            return str(self.web.request(href))
        if (size := Path(href).stat().st_size) > _LARGEST:
            raise UnreadableCatalog(f"{href} holds {size >> 20} MiB; a STAC document has {_LARGEST >> 20} MiB at most.")
        return Path(href).read_text("utf-8")


class StaticSource:
    """Visits the collections and items of a static catalog; errors are those of `Source`."""

    def __init__(
        self,
        location: str,
        retry_policy: RetryPolicy | None = None,
        access: Access | None = None,
    ) -> None:
        """Open the catalog.

        Args:
            location: path or URL of the root document, or of the folder that holds `catalog.json`.
            retry_policy: how a server is waited for.
            access: as whom S3 is asked, hosts that may be inside this network, besides that of the root, and how pixels
                are reached where nothing else distinguishes versions of a scene from halves of it.
        """
        self.skipped: list[Skipped] = []
        self._access = access or Access()
        named = (self._access.hosts or frozenset()) | {host_of(location)}
        self._documents = Documents(retry_policy or RetryPolicy(), s3=self._access.s3, named=named)
        self._root = root_href(location)
        self._read_node(self._root)

    def describe(self) -> str:
        """Return the source in a few words."""
        return f"static catalog {self._root}"

    def collections(self) -> list[str]:
        """Return the ids of all collections, sorted."""
        return sorted(self._collections())

    def collection(self, collection_id: str) -> dict[str, Any]:
        """Return the JSON of a collection."""
        return self._found(collection_id)[1]

    def items(self, collection: str) -> Iterator[pystac.Item]:
        """Yield every readable item of a collection; reasons for the others are appended to `skipped`."""
        seen: set[str] = set()
        for href in self._item_hrefs(collection):
            item = self._item(href)
            if item is None or item.id in seen:
                continue
            seen.add(item.id)
            yield item

    def search(self, query: Query) -> list[pystac.Item]:
        """Return all matching items, sorted by time and id, with absolute hrefs."""
        self.skipped = []
        with self._documents.web.session.bounded(f"Searching {self._root}"):
            every = (self._item(href) for href in self._item_hrefs(query.collection))
            inside = (item for item in every if item is not None and query.contains(instant_of(item)))
            found = [item for item in inside if query.touches(footprint_of(item))]
        return newest_versions(found, self.skipped, self._access)

    def _item(self, href: str) -> pystac.Item | None:
        """Return the item at `href`, or None with the reason in `skipped`."""
        document: dict[str, Any] = {}
        try:
            document = self._documents.read(href)
            with one_item(str(document.get("id"))):
                return item_from(document, href)
        except (UnreadableCatalog, InvalidItem, UnsafeHref) as error:
            self.skipped.append(Skipped(str(document.get("id") or PurePosixPath(href).stem), str(error)))
            return None

    def _read_node(self, href: str) -> dict[str, Any]:
        document = self._documents.read(href)
        if document.get("type") not in ("Catalog", "Collection") or not isinstance(document.get("links"), list):
            raise UnreadableCatalog(f"{href} is not a STAC catalog or collection; give the path of a catalog.json.")
        return document

    def _item_hrefs(self, collection: str) -> Iterator[str]:
        """Yield the path or URL of every item that a collection links, at any depth; nothing of the items is read."""
        for base, document in self._walk(self._found(collection)[0]):
            yield from _links(base, document, "item", self.skipped)

    def _found(self, collection_id: str) -> tuple[str, dict[str, Any]]:
        """Return (href, document) of a collection."""
        collections = self._collections()
        if collection_id not in collections:
            known = ", ".join(sorted(collections)) or "no collection"
            raise InvalidQuery(f"Collection {collection_id!r} does not exist in {self._root}; it has {known}.")
        return collections[collection_id]

    def _collections(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Return (href, document) of every collection by id."""
        nodes = self._walk(self._root)
        return {checked_id(node.get("id")): (href, node) for href, node in nodes if node["type"] == "Collection"}

    def _walk(self, start: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (href, document) of a catalog and all catalogs and collections below it, each once."""
        waiting, seen = [(start, 0)], {start}
        while waiting:
            href, depth = waiting.pop(0)
            document = self._read_node(href)
            yield href, document
            below = [child for child in _links(href, document, "child", None) if child not in seen]
            seen.update(below)
            if below and (depth >= _DEEPEST or len(seen) > _MOST_DOCUMENTS):
                raise UnreadableCatalog(
                    f"{self._root} is too large to be read as a whole; use a STAC API or a catalog below it."
                )
            waiting += [(child, depth + 1) for child in below]


def root_href(location: str) -> str:
    """Return the absolute path or URL of a catalog's root document; a folder means its `catalog.json`."""
    if is_s3(location):
        place = s3_location(location)
        return str(place if place.name.endswith(".json") else place / "catalog.json")
    if is_remote(location):
        return location
    path = Path(location.removeprefix("file://")).expanduser().absolute()
    return str(path / "catalog.json" if path.is_dir() else path)


def _links(base: str, document: dict[str, Any], rel: str, skipped: list[Skipped] | None) -> Iterator[str]:
    """Yield the absolute hrefs of one kind of link.

    Raises:
        UnsafeHref: a link names what it may not, and there is no list to note it in.
    """
    for link in document["links"]:
        if not isinstance(link, dict) or link.get("rel") != rel:
            continue
        try:
            yield resolve(base, link.get("href"))
        except StacError as error:
            if skipped is None:
                raise
            skipped.append(Skipped("", str(error)))


def sample_catalog() -> Path:
    """Return the path of the shipped catalog's `catalog.json`."""
    return Path(__file__).parents[1] / "sample" / "catalog.json"
