"""Work units in threads of one process: reading of one overlaps computing of another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import Task
from prefect.task_runners import ThreadPoolTaskRunner

from flows.progress import Event, listening
from flows.runners.base import Runner, stopped
from flows.runners.kinds import Share


class Threads(Runner):
    """Carries tasks out in Prefect's thread pool."""

    elsewhere = False

    def __init__(self, share: Share, pool: ThreadPoolTaskRunner[Any]) -> None:
        self._share, self._pool, self._stopped = share, pool, threading.Event()

    @property
    def in_flight(self) -> int:
        """One for every thread: they publish, too."""
        return self._share.workers

    def call(self, task: Task[..., Any], **parameters: Any) -> Any:
        """Carry a task out in a thread of the pool."""
        if self._stopped.is_set():
            raise stopped()
        return self._pool.submit(task, parameters).result()

    def stop(self) -> None:
        """Ask all tasks to end at their next tile: a thread cannot be interrupted."""
        self._stopped.set()

    def heed(self, _event: Event) -> None:
        """End the task that tells of its progress when it is to stop."""
        if self._stopped.is_set():
            raise stopped()


@contextmanager
def threads(share: Share) -> Iterator[Runner]:
    """Have a pool of threads while the context is open; each computes with its share of the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(share.threads)
    try:
        pool: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=share.workers)
        with pool:
            runner = Threads(share, pool)
            with listening(runner.heed):
                try:
                    yield runner
                except BaseException:
                    runner.stop()
                    raise
    finally:
        torch.set_num_threads(before)
