"""Units mapped on a Prefect task runner, and what makes a process one of its workers."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from multiprocessing import connection, parent_process
from typing import Any, Generic, TypeVar

from prefect import Task, unmapped
from prefect.task_runners import TaskRunner

from flows.errors import WorkersLost
from flows.settings.fields import thread_limits
from stac.io.secrets import Kept, take

_T = TypeVar("_T")
#: Payloads that are mapped at once: bounds what a run holds in memory.
_BATCH = 256
#: How often the workers are looked at while a result is waited for, seconds.
_LOOK_S = 5.0


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


def inherited(threads: int) -> dict[str, str]:
    """Return the variables that a worker process starts with.

    Prefect's threads know what its settings were when it was loaded, and would start a server of their own where these
    named none.

    Args:
        threads: of numeric libraries.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    return settings | {"PREFECT_SERVER_EPHEMERAL_ENABLED": "false"} | thread_limits(threads)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Let processes that are started while the context is open inherit some variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def begin_worker(threads: int, gpus: Any = None, secrets: Kept = ({}, {})) -> None:
    """Make this process a worker: its share of the cores, its GPU, and an end together with the run.

    Args:
        threads: of numeric libraries.
        gpus: a queue that holds the number of a GPU for every worker; None where all may see all.
        secrets: logins and signatures of addresses, which travel from memory to memory only.
    """
    take(secrets)
    follow_parent()
    if gpus is not None:
        use_gpu(gpus.get())
    limit_threads(threads)


def limit_threads(threads: int) -> None:
    """Let numeric libraries of this process use so many threads, also those that are loaded later."""
    os.environ.update(thread_limits(threads))
    import torch

    torch.set_num_threads(threads)


def use_gpu(number: int) -> None:
    """Let this process see one GPU only; has to be called before anything is done on a GPU.

    Args:
        number: counted among those that the process sees until now.
    """
    import torch

    seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    os.environ["CUDA_VISIBLE_DEVICES"] = seen[number % len(seen)] if seen else str(number)
    # From here on the variable may change, as Prefect gives every task the environment of its run.
    torch.cuda.init()  # type: ignore[no-untyped-call]


def follow_parent() -> None:
    """End this process when the one that started it has ended, also by SIGKILL; leave Ctrl-C to that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), name="parent", daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
