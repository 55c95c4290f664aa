"""An archive on loopback that gives short-lived tokens and serves ranges of files only to those who show one."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from stac.io.signing import Access, Signing, SigningOptions


@dataclass
class Archive:
    """The archive, while it runs."""

    folder: Path
    url: str = ""
    #: How long it says that tokens live, and how long they really do.
    life_s: float = 3600
    #: Tokens that are good now.
    valid: set[str] = field(default_factory=set)
    #: Collections that tokens were asked for.
    asked: list[str] = field(default_factory=list)
    #: Status of every answer to a request for data.
    answers: list[int] = field(default_factory=list)
    #: Answers to give instead of the next tokens, as (status, headers).
    trouble: list[tuple[int, dict[str, str]]] = field(default_factory=list)

    @property
    def access(self) -> Access:
        """How its hrefs are signed."""
        signing = SigningOptions(Signing.PLANETARY_COMPUTER, f"{self.url}/token", ("127.0.0.1",))
        return Access(signing=signing, timeout_s=5)

    def href(self, name: str) -> str:
        """Return the address of a file."""
        return f"{self.url}/data/{name}"

    def revoke(self) -> None:
        """Let every token expire before its time."""
        self.valid.clear()

    def new_token(self, collection: str) -> tuple[int, dict[str, str], bytes]:
        """Answer a request for a token."""
        self.asked.append(collection)
        if self.trouble:
            status, headers = self.trouble.pop(0)
            return status, headers, b"sig=never-shown"
        if collection != "s2":
            return 404, {}, b"sig=never-shown"
        name = f"hidden{len(self.asked)}"
        self.valid.add(name)
        expiry = (datetime.now(UTC) + timedelta(seconds=self.life_s)).isoformat()
        return 200, {}, json.dumps({"msft:expiry": expiry, "token": f"st=1&sig={name}"}).encode()

    def data(self, name: str, query: str, range_header: str) -> tuple[int, dict[str, str], bytes]:
        """Answer a request for (a range of) a file."""
        signature = parse_qs(query).get("sig", [""])[0]
        if signature not in self.valid:
            return 403, {}, f"AuthenticationFailed sig={signature}".encode()
        content = (self.folder / name).read_bytes()
        if not range_header:
            return 200, {}, content
        first, last = (int(n) for n in re.findall(r"\d+", range_header))
        part = content[first : last + 1]
        return 206, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(content)}"}, part


@contextmanager
def serve_archive(folder: Path) -> Iterator[Archive]:
    """Serve the files of a folder."""
    archive = Archive(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # GDAL reads ranges of no older one

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            kind, _, name = address.path[1:].partition("/")
            if kind == "token":
                status, headers, body = archive.new_token(name)
            else:
                status, headers, body = archive.data(name, address.query, self.headers.get("Range", ""))
                archive.answers.append(status)
            self.send_response(status)
            for header, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is given
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    archive.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield archive
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()
