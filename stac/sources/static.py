"""A static catalog: JSON files that link to each other, on disk or on a web server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pystac

from stac.errors import InvalidQuery, UnreadableCatalog
from stac.query import Query


class StaticSource:
    """Walks collections and items of a local catalog."""

    def __init__(self, location: str, timeout_s: float = 30) -> None:
        """Open the catalog.

        Raises:
            UnreadableCatalog: the root cannot be read.
        """
        self.location, self.timeout_s = location, timeout_s
        self.skipped: list[str] = []
        self._root = Path(location)
        _read(self._root)

    def describe(self) -> str:
        """Return the source in a few words."""
        return f"static catalog {self.location}"

    def _collections(self) -> dict[str, tuple[Path, dict[str, Any]]]:
        found = {}
        root = _read(self._root)
        for link in root.get("links", []):
            if link.get("rel") == "child":
                path = self._root.parent / link["href"]
                document = _read(path)
                found[document["id"]] = (path, document)
        return found

    def collections(self) -> list[str]:
        """Return the ids of all collections."""
        return sorted(self._collections())

    def search(self, query: Query) -> list[pystac.Item]:
        """Return all matching items, sorted by time and id."""
        collections = self._collections()
        if query.collection not in collections:
            raise InvalidQuery(
                f"No collection {query.collection}; {self.location} has {', '.join(collections)}."
            )
        path, document = collections[query.collection]
        items = []
        for link in document.get("links", []):
            if link.get("rel") == "item":
                href = path.parent / link["href"]
                item = pystac.Item.from_dict(_read(href))
                item.set_self_href(str(href))
                if item.datetime is not None and query.contains(item.datetime):
                    items.append(item)
        return sorted(items, key=lambda i: (i.datetime, i.id))


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise UnreadableCatalog(f"{path} cannot be read as JSON ({error}).") from error
