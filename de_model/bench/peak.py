"""The most arithmetic a device does and the most it copies, measured: the yardsticks for everything else."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from de_model.bench.clock import clock

#: Sides of the square matrices; the fastest counts. Larger ones take a CPU minutes.
_SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
#: Seconds that a measurement takes at least, and after which no further call is made.
_LEAST_SECONDS, _MOST_SECONDS = 0.5, 20.0
#: Bytes that are copied: far more than any cache holds.
_COPIED = 2**28


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the highest rate of square matrix products, floating-point operations per second.

    A product of n x n matrices counts 2 n^3 operations, as everywhere.
    """
    return max(_rate(device, dtype, side) for side in _SIDES[device.type])


def copy_bandwidth(device: torch.device) -> float:
    """Return the bytes that a copy within a device's memory reads and writes, per second."""
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * _COPIED / seconds_of(lambda: target.copy_(source), device)


def _rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    one, other = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
    one @ other
    return 2 * side**3 / seconds_of(lambda: one @ other, device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return the time of one call that was made before: the shortest of three or more, of fewer where it is long.

    The time is that of `clock`.
    """
    times: list[float] = []
    start = time.perf_counter()
    while (spent := time.perf_counter() - start) < _LEAST_SECONDS or (len(times) < 3 and spent < _MOST_SECONDS):
        began = clock(device)
        work()
        times.append(clock(device) - began)
    return min(times)
