"""Web servers on loopback that speak a real protocol and fail where a test asks for it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import shapely
from shapely.geometry import shape


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    #: Address of the server, with a slash at its end.
    server: str

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, and how it goes wrong."""

    status: int = 200
    #: JSON, or bytes that are sent as they are.
    content: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    #: Silence before anything is sent, seconds.
    silence_s: float = 0
    #: Bytes after which the connection breaks, although more were announced.
    cut_at: int | None = None
    #: Silence between single bytes, seconds.
    drip_s: float = 0
    #: Whether parts can be asked for.
    ranges: bool = True


Answer = Callable[[Asked], Reply]


def files(folder: Path, **how: Any) -> Answer:
    """Return what serves the files of a folder; `how` are fields of every reply that is one."""

    def answer(asked: Asked) -> Reply:
        file = folder / asked.path.lstrip("/")
        return Reply(content=file.read_bytes(), **how) if file.is_file() else Reply(404)

    return answer


@contextmanager
def web_server(answer: Answer) -> Iterator[str]:
    """Serve on a free port while the context is open; yields the address, with a slash at its end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = answer(Asked(self.command, parts.path, parse_qs(parts.query), headers, body, url))
            try:
                self._send(reply)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _send(self, reply: Reply) -> None:
            time.sleep(reply.silence_s)
            body = reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content).encode()
            status, extra = reply.status, dict(reply.headers)
            if status == 200 and reply.ranges and (span := self.headers.get("Range")):
                first, last = (int(n) for n in span.removeprefix("bytes=").split("-"))
                extra["Content-Range"] = f"bytes {first}-{min(last + 1, len(body)) - 1}/{len(body)}"
                status, body = 206, body[first : last + 1]
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **extra}.items():
                self.send_header(name, value)
            self.end_headers()
            if reply.drip_s:
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(reply.drip_s)
            self.wfile.write(body if reply.cut_at is None else body[: reply.cut_at])
            self.close_connection = reply.cut_at is not None

        do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 (names of the standard library)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


#: What goes wrong with one search request; None: nothing.
Trouble = Reply | Callable[[Reply], Reply] | None


@dataclass(slots=True)
class StacApi:
    """A STAC API (item search with POST and GET, pages by token) over some items of one collection."""

    items: Sequence[dict[str, Any]]
    collection: str = "sentinel-2-l2a"
    #: One for each search request, in this order; afterwards nothing goes wrong.
    troubles: list[Trouble] = field(default_factory=list)
    #: Refuse to be searched with POST, which an API need not offer.
    get_only: bool = False
    #: What the search requests asked for.
    searched: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, asked: Asked) -> Reply:
        if asked.path == "/search":
            return self._search(asked)
        if asked.path.startswith("/collections"):
            return Reply(content=self._described("Collection"))
        links = [link for link in _links(asked.server) if not (self.get_only and link.get("method") == "POST")]
        return Reply(content={**self._described("Catalog"), "conformsTo": _CONFORMS, "links": links})

    def _described(self, kind: str) -> dict[str, Any]:
        extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
        common = {"type": kind, "id": self.collection, "stac_version": "1.0.0", "description": "x", "links": []}
        return common if kind == "Catalog" else {**common, "license": "other", "extent": extent}

    def _search(self, asked: Asked) -> Reply:
        if self.get_only and asked.method == "POST":
            return Reply(405, {"description": "Method Not Allowed"})
        query = asked.json() if asked.method == "POST" else _query_of(asked)
        self.searched.append(query)
        trouble = self.troubles.pop(0) if self.troubles else None
        if isinstance(trouble, Reply):
            return trouble
        matching = [item for item in self.items if _matches(item, query)]
        first, size = int(query.get("token", 0)), int(query.get("limit", 100))
        page: dict[str, Any] = {
            "type": "FeatureCollection",
            "features": matching[first : first + size],
            "numberMatched": len(matching),
            "links": [],
        }
        if first + size < len(matching):
            page["links"] = [_next_link(asked, {**query, "token": first + size})]
        reply = Reply(content=page)
        return trouble(reply) if trouble else reply


_CONFORMS = [f"https://api.stacspec.org/v1.0.0/{part}" for part in ("core", "item-search", "collections")]


def _links(server: str) -> list[dict[str, str]]:
    return [
        {"rel": "search", "href": f"{server}search", "type": "application/geo+json"},
        {"rel": "search", "href": f"{server}search", "type": "application/geo+json", "method": "POST"},
        {"rel": "data", "href": f"{server}collections"},
    ]


def _query_of(asked: Asked) -> dict[str, Any]:
    query: dict[str, Any] = {name: values[0] for name, values in asked.query.items()}
    if "bbox" in query:
        query["bbox"] = [float(n) for n in query["bbox"].split(",")]
    return query


def _next_link(asked: Asked, query: dict[str, Any]) -> dict[str, Any]:
    if asked.method == "POST":
        return {"rel": "next", "method": "POST", "href": f"{asked.server}search", "body": query}
    flat = {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in query.items()}
    return {"rel": "next", "href": f"{asked.server}search?{urlencode(flat)}"}


def _matches(item: dict[str, Any], query: dict[str, Any]) -> bool:
    start, end = query["datetime"].split("/")
    if not start <= item["properties"]["datetime"] <= end:
        return False
    return "bbox" not in query or bool(shape(item["geometry"]).intersects(shapely.box(*query["bbox"])))


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
