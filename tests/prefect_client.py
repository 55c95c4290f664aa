"""Flows called in the process of the tests, and the server they report to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.settings import temporary_settings


@contextmanager
def client_of(url: str, auth_string: str, home: Path) -> Iterator[None]:
    """Let flows called in this context report to the API at `url`, and keep what they write in `home`."""
    ours = {
        "home": home,
        "api.url": url,
        "api.auth_string": auth_string,
        "results.local_storage_path": home / "storage",
        "server.ephemeral.enabled": False,
    }
    with temporary_settings(ours):
        yield
