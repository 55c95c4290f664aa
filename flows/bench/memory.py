"""How much memory a process and everything it started hold, looked at again and again."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType

import psutil


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
