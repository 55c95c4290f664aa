"""Units mapped on a Prefect task runner whose workers may be lost: threads, and processes of this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import connection, parent_process
from typing import Any, Generic, TypeVar

import psutil
from prefect import Task, unmapped
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner

from flows.errors import RunStopped, WorkersLost
from flows.progress import Event
from stac.io.cores import cores
from stac.io.secrets import Kept, take

_T = TypeVar("_T")
_log = logging.getLogger("unveil")

#: What one process with a work unit in hand may need, bytes (docs/results/tile.md).
_PROCESS_BYTES = 2.5 * 2**30
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


@dataclass(frozen=True, slots=True)
class Share:
    """How a machine is shared by the workers of one run."""

    workers: int
    #: Threads of numeric libraries in each worker, so that all of them together fill the cores.
    threads: int


def share_of(wanted: int | None, gpus: int, threads: int | None = None) -> Share:
    """Return how this machine is shared.

    Args:
        wanted: workers asked for; None for one per GPU, or per core as far as memory goes without a GPU.
        gpus: GPUs that are used.
        threads: of each worker, where they are asked for.
    """
    here = cores()
    fits = int(psutil.virtual_memory().total // _PROCESS_BYTES)
    workers = wanted or gpus or max(1, min(here, fits))
    return Share(workers, threads or max(1, here // workers))


def thread_limits(threads: int) -> dict[str, str]:
    """Return the variables that numeric libraries read when they are loaded."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


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


def begin_worker(threads: int, secrets: Kept, gpu: int | None = None) -> None:
    """Make this process a worker.

    Args:
        threads: of numeric libraries.
        secrets: logins and signatures of addresses, which travel from memory to memory only.
        gpu: the one GPU that it sees; None where all may see all.
    """
    take(secrets)
    follow_parent()
    if gpu is not None:
        use_gpu(gpu)
    limit_threads(threads)


def begin_pool_worker(threads: int, secrets: Kept, gpus: Any = None) -> None:
    """Make this process of a pool a worker; `gpus` is a queue that holds the number of a GPU for each of them."""
    begin_worker(threads, secrets, None if gpus is None else gpus.get())


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
