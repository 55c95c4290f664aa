"""A STAC API with the Transaction extension, written over HTTP and read back.

https://github.com/stac-api-extensions/transaction; items go in bulk where the service offers it, one by one elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import requests

from stac.catalog.indexes.base import TOKEN_VARIABLE, difference, index_label, require_same
from stac.catalog.tree import Document
from stac.errors import IndexNotUpdated, IndexRefused, IndexUnavailable, SourceUnavailable, UnsafeHref
from stac.io.addresses import host_of
from stac.io.http import PASSING, RetryPolicy, WebSession
from stac.io.secrets import redact

#: Items of one bulk request, and of one page when listing.
_BULK, _PAGE = 200, 500
#: A service of one's own is asked as fast as it answers, requests a second.
_RATE = 10_000.0
_FIELDS = "/ogcapi-features#fields"
_ABSENT = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
_NOT_OFFERED = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)
_DENIED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class ApiIndex:
    """One session with a STAC API.

    Every method may raise `IndexNotUpdated`: the API refuses, does not answer, or holds something else than it should.
    """

    def __init__(self, url: str, token: str, retry_policy: RetryPolicy) -> None:
        """Open the API and see that it is one.

        Args:
            url: the landing page.
            token: bearer token, empty where none is wanted.
            retry_policy: how the API is waited for.
        """
        self.label, self._url = index_label(url), url.rstrip("/")
        self._session = WebSession(retry_policy, _RATE, {host_of(url)})
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"
        self._bulk = True
        conforms = self._json(self._ask("GET", self._url + "/")).get("conformsTo")
        if not isinstance(conforms, list):
            raise IndexNotUpdated(f"{self.label} is not a STAC API: its landing page lists no conformance classes.")
        # Lists of items in which only what is asked for is sent: a hundredth of the bytes.
        self._few_fields = any(str(each).endswith(_FIELDS) for each in conforms)

    def put(self, collection: Document, items: Sequence[Document]) -> None:
        """Write a collection and some of its items, new or in place of older ones, and read all of them back."""
        place = self._collection(collection["id"])
        self._put_collection(place, collection)
        for first in range(0, len(items), _BULK):
            self._put_items(place, str(collection["id"]), items[first : first + _BULK])

    def remove(self, collection_id: str, item_ids: Iterable[str]) -> None:
        """Take items out, and see that they are gone; those that are not there are left out already."""
        for item_id in item_ids:
            place = self._item(self._collection(collection_id), item_id)
            self._ask("DELETE", place, expected=_ABSENT)
            if self._read(place) is not None:
                raise IndexNotUpdated(f"{self.label} still has item {item_id} after it was deleted; see its log.")

    def works(self, collection_id: str) -> dict[str, str]:
        """Return the work id of every item of a collection by item id; empty where it was not made here."""
        found: dict[str, str] = {}
        matched = None
        few = "&fields=id,properties.unveil:work_id" if self._few_fields else ""
        for page in self._pages(f"{self._collection(collection_id)}/items?limit={_PAGE}{few}"):
            before = len(found)
            for item in page.get("features", []):
                found[str(item["id"])] = str(item.get("properties", {}).get("unveil:work_id") or "")
            if page.get("features") and len(found) == before:
                raise IndexUnavailable(f"{self.label} sends the same items page after page; try again later.")
            matched = page.get("numberMatched", matched)
        if isinstance(matched, int) and matched > len(found):
            raise IndexUnavailable(f"{self.label} counts {matched} items but sent {len(found)}; try again.")
        return found

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _put_collection(self, place: str, collection: Document) -> None:
        """Write the collection where it differs."""
        held = self._read(place)
        if held is not None and not difference(collection, held):
            return
        self._put_document(place, f"{self._url}/collections", collection)
        held = self._read(place)
        if held is None or str(held.get("id")) != collection["id"]:
            raise IndexNotUpdated(f"{self.label} accepted collection {collection['id']} but does not have it.")

    def _put_items(self, place: str, collection_id: str, items: Sequence[Document]) -> None:
        if len(items) == 1 or not self._put_bulk(place, items):
            for item in items:
                self._put_document(self._item(place, item["id"]), f"{place}/items", item)
        found = self._found(collection_id, items)
        require_same(self.label, items, lambda name: found.get(name) or self._read(self._item(place, name)))

    def _put_bulk(self, place: str, items: Sequence[Document]) -> bool:
        """Write items in one request; return whether the API offers that."""
        if not self._bulk:
            return False
        body = {"items": {item["id"]: item for item in items}, "method": "upsert"}
        answer = self._ask("POST", f"{place}/bulk_items", body, expected=_NOT_OFFERED)
        self._bulk = answer.ok
        return self._bulk

    def _put_document(self, place: str, above: str, document: Document) -> None:
        """Replace a document, or create it; one that another publisher creates meanwhile is replaced."""
        answer = self._ask("PUT", place, document, expected=_ABSENT)
        if answer.ok:
            return
        answer = self._ask("POST", above, document, expected=(HTTPStatus.CONFLICT,))
        if not answer.ok:
            self._ask("PUT", place, document)

    def _found(self, collection_id: str, items: Sequence[Document]) -> Mapping[str, Document]:
        """Return what a search for many items finds, by id; those it does not find have to be asked for one by one."""
        if len(items) == 1:
            return {}
        body = {"collections": [collection_id], "ids": [item["id"] for item in items], "limit": len(items)}
        answer = self._ask("POST", f"{self._url}/search", body, expected=_NOT_OFFERED)
        features = self._json(answer).get("features", []) if answer.ok else []
        return {str(item["id"]): item for item in features}

    def _read(self, place: str) -> Document | None:
        answer = self._ask("GET", place, expected=_ABSENT)
        return self._json(answer) if answer.ok else None

    def _pages(self, address: str) -> Iterator[Document]:
        """Yield the pages of a list; nothing where there is no such collection."""
        following: str | None = address
        while following:
            answer = self._ask("GET", following, expected=_ABSENT)
            if not answer.ok:
                return
            page = self._json(answer)
            yield page
            links = [link for link in page.get("links", []) if link.get("rel") == "next"]
            following = self._own(urljoin(following, str(links[0].get("href")))) if links else None

    def _own(self, address: str) -> str:
        """Return an address of this API; the token is for no other server."""
        if urlsplit(address)[:2] != urlsplit(self._url)[:2]:
            raise IndexNotUpdated(
                f"{self.label} sends us to {redact(address)}, another server; set its public address (root path)."
            )
        return address

    def _ask(
        self, method: str, address: str, body: Document | None = None, expected: Iterable[HTTPStatus] = ()
    ) -> requests.Response:
        """Send a request; return an answer that is good, or one of those that are expected."""
        try:
            answer = self._session.request(method, address, json=body)
        except SourceUnavailable as error:
            raise IndexUnavailable(f"{self.label}: {error}") from error
        except UnsafeHref as error:
            raise IndexNotUpdated(str(error)) from error
        if answer.ok or answer.status_code in tuple(expected):
            return answer
        answered = f"{self.label} answers {answer.status_code} to {method} {urlsplit(address).path}"
        if answer.status_code in _DENIED:
            raise IndexRefused(f"{answered}; set a token that may write as {TOKEN_VARIABLE}.")
        if answer.status_code in PASSING:
            raise IndexUnavailable(f"{answered}, also after retries ({_reason(answer)}); see its log and try again.")
        if answer.status_code in _NOT_OFFERED:
            raise IndexNotUpdated(f"{answered}; it needs the Transaction extension, switched on for this address.")
        raise IndexNotUpdated(f"{answered} ({_reason(answer)}); its log says more.")

    def _json(self, answer: requests.Response) -> Document:
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise IndexNotUpdated(f"{self.label} does not answer like a STAC API: no JSON object at {answer.url}.")
        return found

    def _collection(self, collection_id: str) -> str:
        return f"{self._url}/collections/{quote(collection_id, safe='')}"

    def _item(self, collection: str, item_id: str) -> str:
        return f"{collection}/items/{quote(str(item_id), safe='')}"


def _reason(answer: requests.Response) -> str:
    """Return what a service says about an error, in one short line."""
    try:
        reason: Any = answer.json()
    except ValueError:
        reason = answer.text
    if isinstance(reason, dict):
        reason = reason.get("detail") or reason.get("description") or reason.get("code") or reason
    return redact(" ".join(str(reason).split()))[:200]
