"""The most arithmetic a device does, measured: the yardstick for everything else."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

#: Sides of the square matrices; the fastest counts. Larger ones take a CPU minutes.
_SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
#: Seconds that a measurement takes at least, and after which no further call is made.
_LEAST_SECONDS, _MOST_SECONDS = 0.5, 20.0


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the highest rate of square matrix products, floating-point operations per second.

    A product of n x n matrices counts 2 n^3 operations, as everywhere.
    """
    return max(_rate(device, dtype, side) for side in _SIDES[device.type])


def _rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    one, other = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
    one @ other
    return 2 * side**3 / seconds_of(lambda: one @ other, device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return the time of one call that was made before: the shortest of three or more, of fewer where it is long."""
    times: list[float] = []
    start = time.perf_counter()
    while (spent := time.perf_counter() - start) < _LEAST_SECONDS or (len(times) < 3 and spent < _MOST_SECONDS):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - began)
    return min(times)


def _wait(device: torch.device) -> None:
    """Wait until the device has done everything it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
