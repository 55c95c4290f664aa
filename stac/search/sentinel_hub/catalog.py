"""Scenes from the Catalog of Sentinel Hub, with bands the Process API answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pystac
from sentinelhub import CRS, BBox, SentinelHubCatalog
from sentinelhub.exceptions import DownloadFailedException

from stac.errors import InvalidItem, InvalidQuery, SourceUnavailable, StacError
from stac.io.http import RetryPolicy
from stac.search.acquisitions import instant_of
from stac.search.hrefs import checked_id
from stac.search.providers import Archive, Provider
from stac.search.sentinel_hub.client import Deployment, HubClient, session_of
from stac.search.sentinel_hub.process import BandAddress
from stac.search.source import Query, Skipped, item_from, one_item
from stac.search.versions import newest_versions

_PAGE = 100
_MOST_ITEMS = 10_000
#: Sentinel-2's grid, metres, and how its bands are given: harmonised, so that no offset is left.
_GSD = 10
_GIVEN = {"scale": 1e-4, "offset": 0, "nodata": 0}
_TILE = re.compile(r"_T(\d\d[A-Z]{3})_")


class SentinelHubSource:
    """Searches a Sentinel Hub Catalog to its last page; errors are those of `Source`."""

    def __init__(self, provider: Provider, retry_policy: RetryPolicy | None = None, page: int = _PAGE) -> None:
        """Open the Catalog with the credentials of the environment.

        Args:
            provider: whose service.
            retry_policy: how it is waited for.
            page: items asked for at a time, at most 100.
        """
        self.skipped: list[Skipped] = []
        self._provider, self._page = provider, page
        patient = provider.retry_policy(retry_policy or RetryPolicy())
        deployment = Deployment.from_environment(provider)
        session = session_of(deployment, patient)
        self._client = HubClient(session, patient, provider.requests_per_s)
        self._catalog = SentinelHubCatalog(session.config)
        self._catalog.client = self._client

    def describe(self) -> str:
        """Return the source in a few words."""
        return f"{self._provider.title}, {self._catalog.service_url}"

    def collections(self) -> list[str]:
        """Return the ids of all collections, sorted."""
        with self._asking("Listing the collections of"):
            return sorted(str(collection["id"]) for collection in self._catalog.get_collections())

    def collection(self, collection_id: str) -> dict[str, Any]:
        """Return the JSON of a collection."""
        self._archive(collection_id)
        with self._asking("Opening a collection of"):
            return dict(self._catalog.get_collection(collection_id))

    def search(self, query: Query) -> list[pystac.Item]:
        """Return all matching items, sorted by time and id; their bands are addresses of the Process API.

        The Catalog gives no count of what matches; a page that leads nowhere is an error.
        """
        self.skipped = []
        archive = self._archive(query.collection)
        found: dict[str, dict[str, Any]] = {}
        with self._asking("Searching"):
            for box in query.boxes:
                found |= self._documents(query, box)
        items = (self._item(document, archive) for document in found.values())
        return newest_versions((item for item in items if item is not None), self.skipped)

    def _archive(self, collection_id: str) -> Archive:
        archive = self._provider.archive(collection_id)
        if not archive.bands:
            known = ", ".join(archive.id for archive in self._provider.archives)
            raise InvalidQuery(f"Collection {collection_id!r} cannot be read from {self._provider.title}; use {known}.")
        return archive

    def _documents(self, query: Query, box: tuple[float, float, float, float] | None) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        area = None if box is None else BBox(box, CRS.WGS84)
        features = self._catalog.search(
            query.collection, time=(query.start, query.end), bbox=area, limit=self._page, filter_lang="cql2-text"
        )
        repeated = 0
        for feature in features:
            name = str(feature.get("id"))
            repeated = repeated + 1 if name in found else 0
            if repeated > self._page:
                raise SourceUnavailable(
                    f"{self._catalog.service_url} sends the same items page after page; try again later."
                )
            if name in found:
                self.skipped.append(Skipped(name, f"Item {name} was sent twice; it is used once.", name))
            if len(found) >= _MOST_ITEMS:
                raise InvalidQuery(f"The search matches more than {_MOST_ITEMS} items; narrow the box or the interval.")
            found[name] = feature
        return found

    def _item(self, document: dict[str, Any], archive: Archive) -> pystac.Item | None:
        """Return an item whose assets are bands of the Process API, or None with the reason in `skipped`."""
        try:
            with one_item(str(document.get("id"))):
                return self._made(document, archive)
        except StacError as error:
            self.skipped.append(Skipped(str(document.get("id") or ""), str(error)))
            return None

    def _made(self, document: dict[str, Any], archive: Archive) -> pystac.Item:
        name = checked_id(document.get("id"))
        href = f"{self._catalog.service_url}/collections/{archive.id}/items/{quote(name, safe='')}"
        # The Catalog's own assets name a bucket that only the service reads.
        item = item_from({**document, "assets": {"data": {"href": href}}}, href)
        item.assets = self._bands(item, archive)
        _set_grid(item)
        return item

    def _bands(self, item: pystac.Item, archive: Archive) -> dict[str, pystac.Asset]:
        return {
            name: pystac.Asset(
                BandAddress(self._provider, archive.id, band, instant_of(item)).href,
                media_type=pystac.MediaType.GEOTIFF,
                roles=["data"],
                extra_fields={} if name == "scl" else {"raster:bands": [_GIVEN]},
            )
            for name, band in archive.bands.items()
        }

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        """Bound the time of what is asked, and turn the library's errors into ours."""
        with self._client.sender.bounded(f"{doing} {self._catalog.service_url}"):
            try:
                yield
            except (DownloadFailedException, KeyError, TypeError, ValueError) as error:
                raise SourceUnavailable(
                    f"{self._catalog.service_url} does not answer like a Sentinel Hub Catalog "
                    f"({type(error).__name__}: {error}); try again later."
                ) from error


def _set_grid(item: pystac.Item) -> None:
    """Write the 10 m grid of the tile, which is the Catalog's `proj:bbox`, and the tile's name.

    Raises:
        InvalidItem: the Catalog says nothing about the grid.
    """
    properties = item.properties
    try:
        west, south, east, north = (float(edge) for edge in properties["proj:bbox"])
        epsg = int(properties["proj:epsg"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidItem(f"Item {item.id} says nothing about its grid (proj:epsg, proj:bbox).") from error
    if not (east > west and north > south):
        raise InvalidItem(f"Item {item.id} has an empty proj:bbox {properties['proj:bbox']}.")
    properties["proj:shape"] = [round((north - south) / _GSD), round((east - west) / _GSD)]
    properties["proj:transform"] = [_GSD, 0, west, 0, -_GSD, north]
    properties["proj:code"] = f"EPSG:{epsg}"
    if tile := _TILE.search(item.id):
        properties.setdefault("grid:code", f"MGRS-{tile[1]}")
