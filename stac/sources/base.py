"""What every source of scenes offers."""

from __future__ import annotations

from typing import Any, Protocol

import pystac

from stac.query import Query


class Source(Protocol):
    """A place that lists scenes."""

    #: Why items were passed over in the last search, one sentence each.
    skipped: list[str]

    def describe(self) -> str:
        """Return the source in a few words, for people."""
        ...

    def collections(self) -> list[str]:
        """Return the ids of all collections."""
        ...

    def collection(self, collection_id: str) -> dict[str, Any]:
        """Return the JSON of a collection: its licence, providers and keywords.

        Raises:
            InvalidQuery: the collection does not exist.
            SourceUnavailable: the source did not answer in time.
        """
        ...

    def search(self, query: Query) -> list[pystac.Item]:
        """Return all matching items, sorted by time and id, with absolute hrefs.

        Raises:
            InvalidQuery: the collection does not exist.
            SourceUnavailable: the source did not answer in time.
        """
        ...
