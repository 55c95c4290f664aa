"""Measure the commands of the README: time, memory, and what they made."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from flows import __version__
from flows.errors import WorkFailed

_SAMPLE_EVERY_S = 0.2
_TIMEOUT_S = 1800


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run of a command."""

    name: str
    seconds: float
    #: Largest sum of resident memory over the command and everything it started, bytes.
    peak_bytes: int
    #: The JSON document the command printed.
    result: dict[str, object]


def machine() -> str:
    """Return the machine in one line: processor, cores, memory, Python."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    memory = psutil.virtual_memory().total / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{cpu}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}, Unveil {__version__}"


def measure(name: str, arguments: list[str]) -> Measurement:
    """Run `unveil` with `arguments` in a process of its own and watch its whole process tree.

    Raises:
        WorkFailed: the command failed or took longer than half an hour.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        watch = _MemoryWatch(process.pid)
        watch.start()
        try:
            output, _ = process.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise WorkFailed(
                f"unveil {' '.join(arguments)} took longer than {_TIMEOUT_S} s and was stopped."
            ) from error
        finally:
            watch.stop()
        if process.returncode:
            errors.seek(0)
            raise WorkFailed(f"unveil {' '.join(arguments)} ended with {process.returncode}: {errors.read()[-400:]!r}")
    return Measurement(name, time.monotonic() - started, watch.peak, json.loads(output))


class _MemoryWatch(threading.Thread):
    """Samples the resident memory of a process and all its descendants."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.root, self.peak, self._done = psutil.Process(pid), 0, threading.Event()

    def run(self) -> None:
        """Sample until stopped."""
        while not self._done.wait(_SAMPLE_EVERY_S):
            self.peak = max(self.peak, self._resident())

    def stop(self) -> None:
        """Stop sampling."""
        self._done.set()
        self.join()

    def _resident(self) -> int:
        total = 0
        try:
            tree = [self.root, *self.root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):  # ended since it was listed
                total += process.memory_info().rss
        return total


def bench_demo() -> list[Measurement]:
    """Run the demo twice in a fresh folder: once for real, once to find its work done."""
    with tempfile.TemporaryDirectory(prefix="unveil-bench-") as folder:
        arguments = ["demo", "--out", str(Path(folder) / "out"), "--json"]
        return [measure("first run", arguments), measure("second run", arguments)]


def as_markdown(measurements: list[Measurement]) -> str:
    """Return a results page: machine, date, command and a row per run."""
    rows = "\n".join(f"| {m.name} | {m.seconds:.1f} | {m.peak_bytes / 2**30:.2f} |" for m in measurements)
    return (
        "# The demo, measured\n\n"
        f"Command: `unveil bench --out docs/results`; {datetime.now(UTC):%Y-%m-%d}; {machine()}.\n"
        "Memory is the largest sum of resident memory over the command and all it started, its Prefect server "
        "included (shared pages are counted in every process).\n\n"
        "| `unveil demo` | seconds | peak memory, GiB |\n|---|---|---|\n" + rows + "\n"
    )
