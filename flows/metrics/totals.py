"""Sums over all units of a state folder: they outlive the processes that add to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock

from flows.metrics.spent import Spent
from stac.io.files import write_json, writing

_LOCK_TIMEOUT_S = 60.0
#: What is added up, in the order of the metrics.
NAMES = ("units", "tiles", "seconds", "cpu_seconds", "gpu_seconds", "km2", "bytes_written", "cost")


def add_unit(state: Path, spent: Spent) -> None:
    """Add what a unit took to the sums.

    Raises:
        DiskFull, NotWritable: the state folder cannot be written.
    """
    path = _path(state)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    given = asdict(spent) | {"units": 1}
    with FileLock(path.with_suffix(".lock"), timeout=_LOCK_TIMEOUT_S):
        before = totals(state)
        write_json(path, {name: before[name] + given[name] for name in NAMES})


def totals(state: Path) -> Mapping[str, float]:
    """Return the sums by name; zeros where nothing was added, and where the file is lost."""
    try:
        values = json.loads(_path(state).read_text("utf-8"))
        return {name: float(values.get(name, 0)) for name in NAMES}
    except (OSError, ValueError, TypeError, AttributeError):
        # A counter that starts again at 0 is what Prometheus expects of one that was lost.
        return dict.fromkeys(NAMES, 0.0)


def _path(state: Path) -> Path:
    return state / "metrics" / "totals.json"
