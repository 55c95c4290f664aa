"""What one work unit took: time of clock, processor and GPU, bytes, money."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path


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

    def spent(
        self, *, km2: float, tiles: int, model_seconds: float, on_gpu: bool, staging: Path, price_per_hour: float
    ) -> Spent:
        """Return what was spent since the start.

        Args:
            km2: area with data.
            tiles: model tiles run.
            model_seconds: clock time of restoring.
            on_gpu: whether the model ran on a GPU.
            staging: folder with the files of the product.
            price_per_hour: of this machine, in any currency.
        """
        seconds = time.monotonic() - self.began
        return Spent(
            seconds=seconds,
            cpu_seconds=time.process_time() - self.processor,
            gpu_seconds=model_seconds if on_gpu and tiles else 0.0,
            km2=km2,
            bytes_written=sum(entry.stat().st_size for entry in os.scandir(staging) if entry.is_file()),
            tiles=tiles,
            cost=seconds / 3600 * price_per_hour,
        )
