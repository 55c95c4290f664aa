"""In which order tests run, and which of them stay together when several workers share them.

A worker takes a whole file at a time, so that fixtures of a module are made once. `xdist_group` overrides that: tests
of one group go to one worker, whatever file they are in. Long work comes first, so that no worker ends alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from xdist.scheduler import LoadGroupScheduling

#: The mark of all tests of the demo's catalog: one worker makes it and reads it, the others need not wait.
DEMO = "demo"


class GroupOrFile(LoadGroupScheduling):
    """Hand out the tests of a group, or else of a file, as one piece of work."""

    def _split_scope(self, nodeid: str) -> str:
        group = super()._split_scope(nodeid)  # the name of the group, or the whole id where there is none
        return group if group != nodeid else nodeid.split("::")[0]


def arrange(items: list[pytest.Item]) -> None:
    """Keep groups in one piece, and sort these, the longest first."""
    pieces: dict[str, list[pytest.Item]] = {}
    for item in items:
        pieces.setdefault(_piece(item), []).append(item)
    ordered = sorted(pieces.items(), key=lambda piece: _rank(*piece))  # stable: otherwise as collected
    items[:] = [item for _, members in ordered for item in members]


def _piece(item: pytest.Item) -> str:
    group = item.get_closest_marker("xdist_group")
    return str(group.args[0]) if group else item.nodeid.split("::")[0]


def _rank(name: str, items: Iterable[pytest.Item]) -> int:
    if name == DEMO:
        return 0
    marks = {mark.name for item in items for mark in item.iter_markers()}
    return 1 if "slow" in marks else 2 if "integration" in marks else 3
