"""The runner interface, and restoring in threads of this process."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import Task
from prefect.task_runners import ThreadPoolTaskRunner

from flows.errors import RunStopped
from flows.progress import Event, listening
from flows.settings.fields import Share

STOPPED = "The run was stopped."


class Runner(ABC):
    """Carries tasks out, for several callers at once where it is asked to; open from `open_runner` on."""

    #: Tasks run in other processes than that of the run.
    elsewhere: bool

    @property
    @abstractmethod
    def in_flight(self) -> int:
        """Units that a run should have in hand at once, now."""

    @abstractmethod
    def call(self, task: Task[..., Any], **parameters: Any) -> Any:
        """Carry a task out and return its result; whatever it raised is raised here.

        Raises:
            RunStopped: `stop` was called meanwhile.
            WorkersLost: those who carry tasks out are gone, for this run at least.
            WorkerKilled: each worker that had this task in hand was killed.
        """

    @abstractmethod
    def stop(self) -> None:
        """Let go of all tasks, as far as they can be interrupted: every caller that waits gets `RunStopped`."""


class Serial(Runner):
    """Carries a task out where it is called."""

    elsewhere = False

    @property
    def in_flight(self) -> int:
        """One."""
        return 1

    def call(self, task: Task[..., Any], **parameters: Any) -> Any:
        """Carry a task out here."""
        return task(**parameters)

    def stop(self) -> None:
        """Do nothing: whoever interrupts the caller has interrupted the task."""


def stopped() -> RunStopped:
    """Return what a caller is told that waits for a task while the run is stopped."""
    return RunStopped(STOPPED)


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
