"""A STAC API, searched with pystac-client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pystac
from pystac_client import Client
from pystac_client.exceptions import APIError
from pystac_client.warnings import DoesNotConformTo

from stac.errors import InvalidQuery, SourceUnavailable, StacError, UnreadableCatalog
from stac.grid.footprint import BBox
from stac.io.addresses import host_of
from stac.io.http import DEFAULT_RATE, RetryPolicy
from stac.io.signing import Access
from stac.search.acquisitions import instant_of
from stac.search.hrefs import is_remote, resolve
from stac.search.providers import Provider
from stac.search.source import Query, Skipped, item_from, one_item, with_band_names
from stac.search.static import CatalogIO, refused
from stac.search.versions import newest_versions

_PAGE = 100
#: More than one run can use; a search this large is a mistake in its area or interval.
_MOST_ITEMS = 10_000
_LISTED = 20
#: What pystac and pystac-client make of answers that are no STAC.
_NOT_STAC = (pystac.STACError, pystac.STACTypeError, NotImplementedError, KeyError, TypeError, ValueError)
#: Pages in a row that bring nothing new before an API is taken to go round in circles.
_MOST_REPEATED = 2


class ApiSource:
    """Searches a STAC API to its last page and checks the count; errors are those of `Source`."""

    def __init__(
        self,
        url: str,
        retry_policy: RetryPolicy | None = None,
        page: int = _PAGE,
        provider: Provider | None = None,
        access: Access | None = None,
    ) -> None:
        """Open the API.

        Args:
            url: the landing page.
            retry_policy: how the API is waited for.
            page: items asked for at a time.
            provider: who offers it, if that is known: its band names are translated, its rate is kept.
            access: hosts that may be inside this network, besides that of the landing page, and how pixels are reached
                where nothing else distinguishes versions of a scene from halves of it.
        """
        self.skipped: list[Skipped] = []
        self._access = access or Access()
        self._url, self._page, self._provider = url.rstrip("/"), page, provider
        rate = provider.requests_per_s if provider else DEFAULT_RATE
        self._web = CatalogIO(retry_policy or RetryPolicy(), rate, (self._access.hosts or frozenset()) | {host_of(url)})
        with self._asking("Opening"):
            self._client = Client.open(url, stac_io=self._web)

    def describe(self) -> str:
        """Return the source in a few words."""
        return f"{self._provider.title}, {self._url}" if self._provider else f"STAC API {self._url}"

    def collections(self) -> list[str]:
        """Return the ids of all collections, sorted."""
        with self._asking("Listing the collections of"):
            return sorted(collection.id for collection in self._client.get_collections())

    def search(self, query: Query) -> list[pystac.Item]:
        """Return all matching items, sorted by time and id, with absolute hrefs.

        A box across the antimeridian is searched in two parts. Of several versions of a scene the newest is
        returned; `skipped` names the others.
        """
        self.skipped = []
        with self._asking("Searching"):
            self.collection(query.collection)
            found: dict[str, dict[str, Any]] = {}
            for box in query.boxes:
                found |= self._documents(query, box)
        items = (self._item(document, query.collection) for document in found.values())
        inside = [item for item in items if item is not None and query.contains(instant_of(item))]
        return newest_versions(inside, self.skipped, self._access)

    def collection(self, collection_id: str) -> dict[str, Any]:
        """Return the JSON of a collection."""
        with self._asking("Opening a collection of"):
            found = self._client.get_collection(collection_id)
        if found is None:
            names = self.collections()
            known = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
            raise InvalidQuery(f"Collection {collection_id!r} does not exist in {self._url}; it has {known or 'none'}.")
        return dict(found.to_dict(include_self_link=False, transform_hrefs=False))

    def _documents(self, query: Query, box: BBox | None) -> dict[str, dict[str, Any]]:
        """Return the JSON of all items that match in a box, every page, each item once, by id."""
        found: dict[str, dict[str, Any]] = {}
        times: Counter[str] = Counter()
        received, matched, repeated = 0, None, 0
        for page in self._pages(query, box):
            _check_links(self._url, page)
            features = self._features(page)
            received += len(features)
            fresh = {str(feature.get("id")): feature for feature in features}
            times.update(str(feature.get("id")) for feature in features)
            repeated = repeated + 1 if features and fresh.keys() <= found.keys() else 0
            found.update(fresh)
            matched = _matched(page) if matched is None else matched
            if len(found) > _MOST_ITEMS or (matched or 0) > _MOST_ITEMS:
                raise InvalidQuery(f"The search matches more than {_MOST_ITEMS} items; narrow the box or the interval.")
            if repeated > _MOST_REPEATED:
                raise SourceUnavailable(f"{self._url} sends the same items page after page; try again later.")
        # Pages that overlap are put together; a count may be that of what was sent or of what differs.
        if matched is not None and matched not in (len(found), received):
            raise SourceUnavailable(
                f"{self._url} counts {matched} matching items but sent {received} ({len(found)} different); "
                "the catalog may be changing, try again."
            )
        self.skipped += [
            Skipped(name, f"Item {name} was sent {count} times, on pages that overlap; it is used once.", name)
            for name, count in times.items()
            if count > 1
        ]
        return found

    def _features(self, page: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the items of a page; what is not an object is noted in `skipped`."""
        every = page.get("features") or []
        if not isinstance(every, list):
            raise UnreadableCatalog(f"{self._url} answers a page whose features are not a list.")
        odd = [feature for feature in every if not isinstance(feature, dict)]
        self.skipped += [Skipped("", f"{self._url} sent {str(one)[:80]!r} as an item; it is not used.") for one in odd]
        return [feature for feature in every if isinstance(feature, dict)]

    def _pages(self, query: Query, box: BBox | None) -> Iterator[dict[str, Any]]:
        search = self._client.search(
            method=self._method(),
            collections=[query.collection],
            bbox=box,
            datetime=query.interval,
            limit=self._page,
            max_items=None,
        )
        yield from search.pages_as_dicts()

    def _method(self) -> str:
        """Return POST where the API offers it: its landing page names it with the search link; GET is the default."""
        offered = {str(link.extra_fields.get("method", "")).upper() for link in self._client.get_links("search")}
        return "POST" if "POST" in offered else "GET"

    def _item(self, document: dict[str, Any], collection: str) -> pystac.Item | None:
        """Return a checked item, or None with the reason in `skipped`."""
        name = str(document.get("id") or "")
        try:
            with one_item(name):
                item = item_from(document, self._href(document))
        except StacError as error:
            self.skipped.append(Skipped(name, str(error)))
            return None
        return with_band_names(item, self._provider.archive(collection)) if self._provider else item

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        """Bound the time of what is asked, and turn pystac-client's errors into ours."""
        try:
            with self._web.session.bounded(f"{doing} {self._url}"):
                yield
        except APIError as error:
            raise refused(self._url, error) from error
        except DoesNotConformTo as error:
            raise UnreadableCatalog(
                f"{self._url} is not a STAC API with item search; the address of a provider must be one, and a static "
                "catalog is given as a URL or path of its own."
            ) from error
        except RecursionError as error:
            raise UnreadableCatalog(f"{self._url} sends a document that is nested too deeply to be STAC.") from error
        except _NOT_STAC as error:
            raise UnreadableCatalog(
                f"{self._url} does not answer like a STAC API ({type(error).__name__}: {error})."
            ) from error

    def _href(self, document: dict[str, Any]) -> str:
        """Return an item's address: its `self` link where it is one on a server.

        Raises:
            UnsafeHref: the link leads into this network.
        """
        links = [link for link in document.get("links") or [] if isinstance(link, dict) and link.get("rel") == "self"]
        named = str(links[0].get("href")) if links else ""
        if is_remote(named):
            return resolve(self._url, named)
        return f"{self._url}/collections/{document.get('collection')}/items/{document.get('id')}"


def _check_links(url: str, page: dict[str, Any]) -> None:
    """Do nothing where the next page is at an address that may be asked.

    Raises:
        UnsafeHref: it is not.
    """
    for link in page.get("links") or []:
        if isinstance(link, dict) and link.get("rel") == "next":
            resolve(url, link.get("href"))


def _matched(page: dict[str, Any]) -> int | None:
    """Return how many items a page says the search matches, if it says so."""
    context = page.get("context")
    count = page.get("numberMatched", context.get("matched") if isinstance(context, dict) else None)
    return count if isinstance(count, int) else None
