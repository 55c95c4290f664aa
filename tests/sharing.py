"""How several workers share the tests: in which order, which stay together, and what is made once for all of them.

A worker takes a whole file at a time, so that fixtures of a module are made once; files that need the demo's catalog
are one piece. Long work comes first, so that no worker ends alone.

xdist's own groups are not used: they rename tests while these are collected, which pytest 9 no longer lets them do.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from xdist.scheduler import LoadFileScheduling

#: The tests of the demo's catalog: one worker makes it and reads it, the others need not wait.
DEMO = "demo"
DEMO_FILES = frozenset({"tests/e2e/test_demo.py", "tests/e2e/test_stac_browser.py"})


class Pieces(LoadFileScheduling):
    """Hand out the tests of a piece as one unit of work."""

    def _split_scope(self, nodeid: str) -> str:
        return piece_of(nodeid)


def piece_of(nodeid: str) -> str:
    """Return the name of the piece a test belongs to: its file, or that of several files."""
    file = nodeid.split("::")[0]
    return DEMO if file in DEMO_FILES else file


def arrange(items: list[pytest.Item]) -> None:
    """Keep pieces together, and sort them, the longest first."""
    pieces: dict[str, list[pytest.Item]] = {}
    for item in items:
        pieces.setdefault(piece_of(item.nodeid), []).append(item)
    ordered = sorted(pieces.items(), key=lambda piece: _rank(*piece))  # stable: otherwise as collected
    items[:] = [item for _, members in ordered for item in members]


def _rank(name: str, items: Iterable[pytest.Item]) -> int:
    if name == DEMO:
        return 0
    marks = {mark.name for item in items for mark in item.iter_markers()}
    return 1 if "slow" in marks else 2 if "integration" in marks else 3


#: A worker waits this long for what another one makes, seconds.
WAIT_S = 1200
_DONE = "made.json"


def common_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the temporary folder of this test run, the same one for all of its workers."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> tuple[Path, Any]:
    """Return the folder `name` that `make` filled, and the JSON document it returned; the first caller makes it.

    The others wait for the first one. When it fails, nothing is kept and the next caller tries for itself, so that
    every test that needs the folder tells the reason.
    """
    folder = common_folder(factory) / name
    with FileLock(f"{folder}.lock", timeout=WAIT_S):
        done = folder / _DONE
        if not done.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            document = make(folder)
            done.write_text(json.dumps(document), encoding="utf-8")
        return folder, json.loads(done.read_text(encoding="utf-8"))
