"""Clocks, memory and the machine's own limits: the yardsticks of every benchmark."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil
import torch
from torch import Size
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from flows.errors import WorkFailed

_TIMEOUT_S = 1800
#: Sides of the square matrices; the fastest counts. Larger ones take a CPU minutes.
_SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
#: Seconds that a measurement takes at least, and after which no further call is made.
_LEAST_S, _MOST_S = 0.5, 20.0
#: Bytes that are copied, far more than any cache holds; and written to disk, in pieces.
_COPIED, _CHUNK, _CHUNKS = 2**28, 2**24, 16


def clock(device: torch.device) -> float:
    """Return seconds of a clock that suits a device, after all queued work is done.

    On a CPU with one thread it is the processor time of this process, which other work on the machine does not change;
    of several threads, and on a GPU, it is the wall's.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's operators in one thread of the CPU while the context is open."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return the shortest time of three or more calls, of fewer where a call is long."""
    times: list[float] = []
    start = time.perf_counter()
    while (spent := time.perf_counter() - start) < _LEAST_S or (len(times) < 3 and spent < _MOST_S):
        began = clock(device)
        work()
        times.append(clock(device) - began)
    return min(times)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the highest rate of square matrix products, operations per second; n x n matrices count 2 n^3."""

    def rate(side: int) -> float:
        one, other = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
        one @ other
        return 2 * side**3 / seconds_of(lambda: one @ other, device)

    return max(rate(side) for side in _SIDES[device.type])


def copy_bandwidth(device: torch.device) -> float:
    """Return the bytes that a copy within a device's memory reads and writes, per second."""
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * _COPIED / seconds_of(lambda: target.copy_(source), device)


def disk_rates() -> tuple[float, float]:
    """Return the rates of writing (until it is on disk) and reading 256 MiB in the temporary folder, bytes/s."""
    chunk = os.urandom(_CHUNK)
    with tempfile.TemporaryDirectory(prefix="unveil-bench-") as folder:
        path = Path(folder) / "bytes"
        began = time.perf_counter()
        with path.open("wb") as file:
            for _ in range(_CHUNKS):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        written = time.perf_counter() - began
        with path.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            began = time.perf_counter()
            while file.read(_CHUNK):
                pass
            read = time.perf_counter() - began
    return _CHUNK * _CHUNKS / written, _CHUNK * _CHUNKS / read


def _attention(query: Size, key: Size, value: Size, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(gradient: Size, query: Size, key: Size, value: Size, *_: object, **__: object) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


#: torch's counter knows attention on GPUs only.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def flops_of(work: Callable[[], object]) -> int:
    """Run once and return floating-point operations; a multiplication and an addition count two."""
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        work()
    return counter.get_total_flops()


class MemoryWatch(threading.Thread):
    """Samples the resident memory of a process and all its descendants while its context is open."""

    def __init__(self, pid: int, every_s: float = 0.2) -> None:
        super().__init__(daemon=True)
        #: Largest sum so far, bytes; pages that processes share are counted in each.
        self.peak = 0
        self._root, self._every_s, self._done = psutil.Process(pid), every_s, threading.Event()

    def __enter__(self) -> MemoryWatch:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        """Sample until the context is closed."""
        while not self._done.wait(self._every_s):
            self.peak = max(self.peak, self._resident())

    def _resident(self) -> int:
        total = 0
        try:
            tree = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):  # ended since it was listed
                total += process.memory_info().rss
        return total


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of an `unveil` command."""

    name: str
    seconds: float
    #: Largest sum of resident memory over the command and everything it started, bytes.
    peak_bytes: int
    #: The JSON document the command printed.
    result: dict[str, object]


def run_unveil(name: str, arguments: list[str]) -> Measurement:
    """Run `unveil` with `arguments` in a process of its own and watch its whole process tree.

    Raises:
        WorkFailed: the command failed or took longer than half an hour.
    """
    command, started = f"unveil {' '.join(arguments)}", time.monotonic()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        with MemoryWatch(process.pid) as watch:
            try:
                output, _ = process.communicate(timeout=_TIMEOUT_S)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise WorkFailed(f"{command} took longer than {_TIMEOUT_S} s and was stopped.") from error
        if process.returncode:
            errors.seek(0)
            raise WorkFailed(f"{command} ended with {process.returncode}: {errors.read()[-400:]!r}")
    return Measurement(name, time.monotonic() - started, watch.peak, json.loads(output))
