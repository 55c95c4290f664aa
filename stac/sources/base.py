"""What every source of scenes offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import pystac

from stac.query import Query


@dataclass(frozen=True, slots=True)
class Skipped:
    """An item that a search passed over."""

    #: Empty where the document does not say.
    item_id: str
    #: One sentence.
    reason: str
    #: Id of the item that stands for the same scene, so that none of its ground is left out; empty without one.
    superseded_by: str = ""


class Source(Protocol):
    """A place that lists scenes."""

    #: Items that the last search passed over.
    skipped: list[Skipped]

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
