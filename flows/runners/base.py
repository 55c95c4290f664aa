"""What a runner is, and the plainest one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from prefect import Task

from flows.errors import RunStopped

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
