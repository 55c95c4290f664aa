"""What some tests need beside Python, and how to get it; without it they are skipped, and fail where CI is set."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.postgres import programs

CHROMIUM = Path(os.environ.get("UNVEIL_CHROMIUM", "/usr/bin/chromium"))


class Needed(Enum):
    """A program: its name, the Debian packages that bring it, and whether it is here."""

    CHROMIUM = "Chromium", "chromium", CHROMIUM.is_file
    GIT = "Git", "git", lambda: shutil.which("git") is not None
    NODE = "Node.js with npm", "nodejs npm", lambda: bool(shutil.which("node") and shutil.which("npm"))
    POSTGRESQL = "PostgreSQL", "postgresql", lambda: programs() is not None
    POSTGIS = (
        "PostGIS",
        "postgresql-postgis",
        lambda: any(Path("/usr/share/postgresql").glob("*/extension/postgis.control")),
    )
    PROMETHEUS = "Prometheus", "prometheus", lambda: bool(shutil.which("prometheus") and shutil.which("promtool"))

    def __init__(self, title: str, packages: str, is_here: Callable[[], bool]) -> None:
        self.title, self.packages, self.is_here = title, packages, is_here


def require(*needed: Needed) -> None:
    """Skip the test unless all of this is installed; fail it where everything has to be tested."""
    for each in needed:
        if not each.is_here():
            _missing(f"{each.title} is not installed: sudo apt-get install --no-install-recommends {each.packages}")


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def require_node(folder: Path) -> str:
    """Return the path of node once the packages that `folder/package-lock.json` pins are installed there."""
    require(Needed.NODE)
    # npm writes this file last.
    if not (folder / "node_modules/.package-lock.json").is_file():
        command = ["npm", "ci", "--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund"]
        done = subprocess.run(
            command, cwd=folder, timeout=300, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if done.returncode:
            _missing(f"npm cannot fetch the packages of {folder.name}: {done.stderr.strip()[-300:]}")
    return str(shutil.which("node"))
