"""A private PostgreSQL cluster on loopback, for as long as the tests run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.services.postgres import Postgres, programs, start, stop

__all__ = ["FAST", "Postgres", "cluster", "require_binaries"]

#: Faster, and as lost as the machine after a power cut: right for tests.
FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "32MB",
}


def require_binaries() -> Path:
    """Return the folder of the programs; skip without them, but fail where everything has to be tested."""
    found = programs()
    if found is None:
        reason = "PostgreSQL is not installed (initdb was not found); see infra/ci/install_debian.sh"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def cluster() -> Iterator[Postgres]:
    """Make a cluster in a temporary folder, run it, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="unveil-pg-"))
    try:
        yield start(folder, FAST)
    finally:
        stop(folder)
        shutil.rmtree(folder, ignore_errors=True)
