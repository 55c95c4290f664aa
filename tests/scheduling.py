"""In which order tests run, and which of them stay together when several workers share them.

A worker takes a whole file at a time, so that fixtures of a module are made once; files that need the demo's catalog
are one piece. Long work comes first, so that no worker ends alone.

xdist's own groups are not used: they rename tests while these are collected, which pytest 9 no longer lets them do.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
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
