"""A STAC API with the Transaction extension in memory, that loses, changes or refuses what a test asks for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.misbehaving_server import Asked, Reply

Document = dict[str, Any]


@dataclass(slots=True)
class TransactionApi:
    """Collections and items by path; no bulk requests, no search."""

    stored: dict[str, Document] = field(default_factory=dict)
    #: What becomes of an item before it is stored; None: it is accepted and dropped.
    keep: Callable[[Document], Document | None] = lambda item: item
    #: One for each write, in this order; afterwards nothing goes wrong.
    troubles: list[Reply] = field(default_factory=list)
    #: Called before an item is written.
    before_item: Callable[[], object] = lambda: None
    asked: list[Asked] = field(default_factory=list)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, asked: Asked) -> Reply:
        with self._turn:
            self.asked.append(asked)
            if asked.path == "/":
                return Reply(content={"type": "Catalog", "id": "x", "conformsTo": []})
            if asked.path == "/search":
                return Reply(404)
            return self._read(asked) if asked.method == "GET" else self._write(asked)

    def items(self) -> list[str]:
        return sorted(path.rsplit("/", 1)[1] for path in self.stored if "/items/" in path)

    def _read(self, asked: Asked) -> Reply:
        if asked.path.endswith("/items"):
            found = [document for path, document in self.stored.items() if path.startswith(f"{asked.path}/")]
            return Reply(content={"type": "FeatureCollection", "features": found, "numberMatched": len(found)})
        return Reply(content=self.stored[asked.path]) if asked.path in self.stored else Reply(404)

    def _write(self, asked: Asked) -> Reply:
        if self.troubles:
            return self.troubles.pop(0)
        if asked.method == "DELETE":
            return Reply() if self.stored.pop(asked.path, None) else Reply(404)
        if (asked.method == "PUT" and asked.path not in self.stored) or asked.path.endswith("/bulk_items"):
            return Reply(404)
        document = asked.json()
        path = asked.path if asked.method == "PUT" else f"{asked.path}/{document['id']}"
        if document["type"] == "Feature":
            self.before_item()
            document = self.keep(document)
        if document is not None:
            self.stored[path] = document
        return Reply(content={})
