"""Units mapped on a Prefect task runner whose workers may be lost: threads, and processes of this machine."""

from __future__ import annotations

import logging
import multiprocessing
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from itertools import islice
from typing import Any, Generic, TypeVar

from prefect import Task, unmapped
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner

from flows.errors import RunStopped, WorkersLost
from flows.progress import Event

_T = TypeVar("_T")
_log = logging.getLogger("unveil")
#: Payloads that are mapped at once: bounds what a run holds in memory.
_BATCH = 256
#: How often the workers are looked at while a result is waited for, seconds.
_LOOK_S = 5.0
#: Pools that may break in one run: a unit that kills every process it gets must not go on for ever.
_POOLS = 4
_KILLED = (
    f"Worker processes were killed {_POOLS} times, most likely as memory ran out; the same command continues, better "
    "with fewer --workers."
)


class Workers(Generic[_T]):
    """A started task runner. A subclass knows how its workers can be lost."""

    #: Payloads that are mapped at once.
    batch = _BATCH

    def __init__(self, runner: TaskRunner[Any]) -> None:
        self.runner = runner
        #: Of the batch in progress.
        self.futures: list[Any] = []

    def map(self, task: Task[..., Any], payloads: Iterable[_T], **shared: Any) -> Iterator[tuple[_T, Any]]:
        """Map a task over payloads; yield each with what the task returned, or the exception that ended it.

        Args:
            task: gets each payload as its parameter `payload`.
            payloads: taken batch by batch.
            shared: parameters that are the same for all.

        Raises:
            WorkersLost: there are no workers left.
        """
        pending = iter(payloads)
        while batch := list(islice(pending, self.batch)):
            yield from self._mapped(task, batch, {name: unmapped(value) for name, value in shared.items()})

    def stop(self) -> None:
        """End tasks in progress as soon as possible: the run is stopped."""

    def look(self) -> None:
        """Raise `WorkersLost` where no worker is left."""

    def lost(self, error: Exception) -> Exception | None:
        """Return what became of a task that its runner gave up; None where it is to be mapped again.

        Raises:
            WorkersLost: no worker is left for any task.
        """
        raise error

    def _mapped(self, task: Task[..., Any], batch: Sequence[_T], shared: Mapping[str, Any]) -> Iterator[tuple[_T, Any]]:
        again: list[_T] = []
        try:
            self.futures = futures = list(self.runner.map(task, {"payload": list(batch), **shared}))
        except Exception as error:
            self.lost(error)
            raise
        for payload, future in zip(batch, futures, strict=True):
            try:
                ended = self._result(future)
            except WorkersLost:
                raise
            except Exception as error:  # noqa: BLE001 - of the runner: what the task raised is its result
                ended = self.lost(error)
                if ended is None:
                    again.append(payload)
                    continue
            yield payload, ended
        if again:
            yield from self._mapped(task, again, shared)

    def _result(self, future: Any) -> Any:
        while True:
            try:
                return future.result(timeout=_LOOK_S, raise_on_failure=False)
            except TimeoutError:
                self.look()


class Threads(Workers[_T]):
    """Threads of this process; a thread cannot be interrupted, so a unit ends at its next tile."""

    def __init__(self, runner: TaskRunner[Any]) -> None:
        super().__init__(runner)
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ask all units to end."""
        self._stopped.set()

    def check(self, _event: Event) -> None:
        """End the unit that reports progress when the run is stopped."""
        if self._stopped.is_set():
            raise RunStopped("The run was stopped.")


class Processes(Workers[_T]):
    """Processes of this machine. A pool whose process is killed is broken as a whole, and replaced.

    Units begin again with the blocks that are finished.
    """

    def __init__(self, opened: ExitStack, pool: Callable[[], ProcessPoolTaskRunner]) -> None:
        self._opened, self._pool, self._left = opened, pool, _POOLS
        self._others = set(multiprocessing.active_children())
        super().__init__(opened.enter_context(pool()))

    def stop(self) -> None:
        """Kill the processes; finished blocks are kept."""
        for process in set(multiprocessing.active_children()) - self._others:
            process.kill()

    def lost(self, error: Exception) -> None:
        """Replace a broken pool, once for all tasks that it had."""
        broken = isinstance(error, BrokenProcessPool | CancelledError)
        if self.runner is not self._mapped_on and (broken or isinstance(error, RuntimeError)):
            return  # replaced already
        if not broken:
            raise error
        self._left -= 1
        if not self._left:
            raise WorkersLost(_KILLED) from error
        _log.warning("a worker process was killed; another pool takes its place")
        self._opened.close()
        self.runner = self._opened.enter_context(self._pool())

    def _mapped(self, task: Task[..., Any], batch: Sequence[_T], shared: Mapping[str, Any]) -> Iterator[tuple[_T, Any]]:
        self._mapped_on = self.runner
        yield from super()._mapped(task, batch, shared)
