"""Reading what a catalog is made of, wherever it lies: a folder, a bucket, a web server."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from stac.errors import UnreadableAsset
from stac.io.addresses import host_of
from stac.io.http import RetryPolicy
from stac.io.s3 import Objects, S3Options, is_s3, s3_location
from stac.search.hrefs import is_remote
from stac.search.static import Documents

#: A check asks for many small things; servers of catalogs bear more than those of archives, requests a second.
_RATE = 200.0
#: Files on web servers are fetched in parts of this size, bytes: each part is tried again by itself.
_PART = 8 << 20
_GONE = (404, 410)
#: What servers answer that do not know HEAD.
_NO_HEAD = (405, 501)


class Places:
    """Reads documents and files by absolute path or address. May be used by several threads.

    Every method may raise `AccessRefused`, `SourceUnavailable`, or `UnreadableAsset`; `read` also `UnreadableCatalog`.
    """

    def __init__(self, retry_policy: RetryPolicy, s3: S3Options, root: str) -> None:
        self._documents = Documents(retry_policy, _RATE, s3, {host_of(root)})
        self._objects = Objects(s3, retry_policy.timeout_s)

    def read(self, href: str) -> dict[str, Any]:
        """Return the JSON object at a place."""
        return self._documents.read(href)

    def size(self, href: str) -> int | None:
        """Return the size of a file, bytes; None where there is none, -1 where a server does not say."""
        if is_s3(href):
            found = self._objects.head(s3_location(href))
            return None if found is None else found.size
        if is_remote(href):
            return self._size_on_server(href)
        path = Path(href)
        return path.stat().st_size if path.is_file() else None

    def has_ranges(self, href: str) -> bool:
        """Return whether parts of a file can be read; true for files of this machine and in S3."""
        if not is_remote(href) or is_s3(href):
            return True
        return self._ask("GET", href, 0, 0).status_code == requests.codes.partial_content

    @contextmanager
    def at_hand(self, href: str) -> Iterator[Path]:
        """Yield a file on this machine with the same content; a copy is removed afterwards."""
        if not is_remote(href):
            yield Path(href)
            return
        if is_s3(href):
            with self._objects.at_hand(s3_location(href)) as copy:
                yield copy
            return
        with tempfile.TemporaryDirectory(prefix="unveil-") as folder:
            copy = Path(folder) / Path(urlsplit(href).path).name
            self._download(href, copy)
            yield copy

    def documents_below(self, root: str) -> Iterator[str] | None:
        """Yield the places of all visible JSON documents in a catalog's folder; None where a place cannot be listed."""
        if is_s3(root):
            return self._documents_in_bucket(root)
        return None if is_remote(root) else _documents_in_folder(Path(root).parent)

    def _size_on_server(self, href: str) -> int | None:
        answer = self._ask("HEAD", href)
        if answer.status_code in _NO_HEAD:
            answer = self._ask("GET", href, 0, 0)
            whole = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if answer.status_code == requests.codes.partial_content and whole.isdecimal():
                return int(whole)
        return None if answer.status_code in _GONE else int(answer.headers.get("Content-Length", -1))

    def _documents_in_bucket(self, root: str) -> Iterator[str]:
        above = s3_location(root).parent
        for found in self._objects.listing(above):
            name = found.key[len(above.key) :]
            if name.endswith(".json") and not any(part.startswith(".") for part in name.split("/")):
                yield f"s3://{above.bucket}/{found.key}"

    def _download(self, href: str, copy: Path) -> None:
        with copy.open("wb") as stream:
            while True:
                start = stream.tell()
                answer = self._ask("GET", href, start, start + _PART - 1)
                if answer.status_code == requests.codes.requested_range_not_satisfiable and start:
                    return
                if answer.status_code in _GONE:
                    raise UnreadableAsset(f"{href} is no longer there; check again.")
                stream.write(answer.content)
                if answer.status_code != requests.codes.partial_content or len(answer.content) < _PART:
                    return

    def _ask(self, method: str, href: str, first: int = 0, last: int | None = None) -> requests.Response:
        """Return the answer to a request for a file, or for its bytes `first` to `last`."""
        headers = {"Accept-Encoding": "identity"}
        if last is not None:
            headers["Range"] = f"bytes={first}-{last}"
        answer = self._documents.web.session.request(method, href, headers=headers, allow_redirects=True)
        expected = (*_GONE, *_NO_HEAD, requests.codes.requested_range_not_satisfiable)
        if not answer.ok and answer.status_code not in expected:
            raise UnreadableAsset(f"{href} answers {answer.status_code} {answer.reason}; check the access rights.")
        return answer


def _documents_in_folder(folder: Path) -> Iterator[str]:
    for above, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.endswith(".json") and not name.startswith("."):
                yield str(Path(above) / name)
