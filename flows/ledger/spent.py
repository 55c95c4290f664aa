"""What units and runs cost: seconds, tiles, bytes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a unit took. Processor time is that of the whole process: one process works on one unit at a time."""

    #: Clock time, seconds.
    seconds: float
    cpu_seconds: float
    #: Clock time of the model on a GPU, seconds; 0 without one.
    gpu_seconds: float
    #: Area with data, square kilometres.
    km2: float
    #: Size of the files of the product, bytes.
    bytes_written: int
    #: Model tiles run.
    tiles: int
    #: Clock time x price of an hour of this machine, in the currency of the price; 0 without a price.
    cost: float

    @property
    def document(self) -> dict[str, float]:
        """What is written into metadata: the sums, and those that compare scenes of any size."""
        area = self.km2 or 1.0
        return {
            "seconds": round(self.seconds, 3),
            "cpu_seconds": round(self.cpu_seconds, 3),
            "gpu_seconds": round(self.gpu_seconds, 3),
            "cpu_seconds_per_km2": round(self.cpu_seconds / area, 6),
            "gpu_seconds_per_km2": round(self.gpu_seconds / area, 6),
            "bytes_written": self.bytes_written,
            "cost": round(self.cost, 6),
            "cost_per_1000_km2": round(1000 * self.cost / area, 6),
        }


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Started with a unit."""

    began: float = field(default_factory=time.monotonic)
    processor: float = field(default_factory=time.process_time)

    @property
    def seconds(self) -> float:
        """Clock time since the start."""
        return time.monotonic() - self.began

    def spent(
        self, *, km2: float, tiles: int, model_seconds: float, on_gpu: bool, staging: Path, price_per_hour: float
    ) -> Spent:
        """Return what was spent since the start."""
        seconds = self.seconds
        return Spent(
            seconds=seconds,
            cpu_seconds=time.process_time() - self.processor,
            gpu_seconds=model_seconds if on_gpu and tiles else 0.0,
            km2=km2,
            bytes_written=sum(entry.stat().st_size for entry in os.scandir(staging) if entry.is_file()),
            tiles=tiles,
            cost=seconds / 3600 * price_per_hour,
        )
