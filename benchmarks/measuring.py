"""Time and memory of commands: the yardsticks of every benchmark."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from types import TracebackType

import psutil

from flows.errors import WorkFailed

_TIMEOUT_S = 1800


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
