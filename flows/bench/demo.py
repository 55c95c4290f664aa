"""Measure `unveil demo`: time, memory, and what it made."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flows.bench.machine import machine
from flows.bench.memory import MemoryWatch
from flows.errors import WorkFailed

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
        with MemoryWatch(process.pid) as watch:
            output = _output_of(process, arguments)
        if process.returncode:
            errors.seek(0)
            raise WorkFailed(f"unveil {' '.join(arguments)} ended with {process.returncode}: {errors.read()[-400:]!r}")
    return Measurement(name, time.monotonic() - started, watch.peak, json.loads(output))


def _output_of(process: subprocess.Popen[bytes], arguments: list[str]) -> bytes:
    try:
        output, _ = process.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        process.kill()
        raise WorkFailed(f"unveil {' '.join(arguments)} took longer than {_TIMEOUT_S} s and was stopped.") from error
    return output


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
        f"Command: `unveil bench demo --out docs/results`; {datetime.now(UTC):%Y-%m-%d}; {machine()}.\n"
        "Memory is the largest sum of resident memory over the command and all it started, its Prefect server "
        "included (shared pages are counted in every process).\n\n"
        "| `unveil demo` | seconds | peak memory, GiB |\n|---|---|---|\n" + rows + "\n"
    )
