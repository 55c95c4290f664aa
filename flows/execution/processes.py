"""Restoring in worker processes of this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, parent_process
from multiprocessing.queues import SimpleQueue
from typing import Any

from prefect import Task
from prefect.task_runners import ProcessPoolTaskRunner

from flows.errors import WorkersLost
from flows.execution.threads import Runner, stopped
from flows.settings.fields import Share, thread_limits
from stac.io.secrets import Kept, kept, take


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


def begin(threads: int, gpus: Any = None, secrets: Kept = ({}, {})) -> None:
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
    """Let this process see one GPU only; has to be said before anything is done on a GPU.

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


_log = logging.getLogger("unveil")
#: Pools that may break in one run: a unit that kills every process it gets must not go on for ever.
_POOLS = 4


class Processes(Runner):
    """Carries tasks out in Prefect's process pool.

    A pool whose process is killed is broken as a whole: another one takes its place, and tasks begin again with the
    blocks that are finished.
    """

    elsewhere = True

    def __init__(self, share: Share, gpus: int) -> None:
        self._share, self._gpus = share, gpus
        self._lock, self._stopped, self._left = threading.Lock(), threading.Event(), _POOLS
        self._others = set(multiprocessing.active_children())
        self._pool = self._opened()

    @property
    def in_flight(self) -> int:
        """A few more than processes."""
        return self._share.in_flight

    def call(self, task: Task[..., Any], **parameters: Any) -> Any:
        """Carry a task out in a process of the pool, or of the next pool when that one breaks."""
        while True:
            pool = self._pool
            if self._stopped.is_set():
                raise stopped()
            try:
                return pool.submit(task, parameters).result()
            except (BrokenProcessPool, CancelledError) as error:
                if self._stopped.is_set():
                    raise stopped() from error
                self._replace(pool)
            except RuntimeError:
                if pool is self._pool:
                    raise
                # Not the task's own: another caller has closed this pool.

    def stop(self) -> None:
        """Kill the processes; finished blocks are kept."""
        self._stopped.set()
        for process in set(multiprocessing.active_children()) - self._others:
            process.kill()

    def close(self) -> None:
        """End the pool."""
        with self._lock:
            self._pool.__exit__(None, None, None)

    def _replace(self, broken: ProcessPoolTaskRunner) -> None:
        """Open another pool in place of one, unless another caller has done so."""
        with self._lock:
            if self._pool is not broken:
                return
            self._left -= 1
            if not self._left:
                raise WorkersLost(
                    f"Worker processes were killed {_POOLS} times, most likely as memory ran out; the same command "
                    "continues, better with fewer --workers."
                )
            _log.warning("a worker process was killed; another pool takes its place")
            self._pool = self._opened()
            broken.__exit__(None, None, None)

    def _opened(self) -> ProcessPoolTaskRunner:
        context = multiprocessing.get_context("spawn")
        gpus: SimpleQueue[int] | None = None
        if self._gpus > 1:
            gpus = context.SimpleQueue()
            for number in range(self._share.workers):
                gpus.put(number % self._gpus)
        given = (self._share.threads, gpus, kept())
        pool = ProcessPoolTaskRunner(max_workers=self._share.workers, initializer=begin, initargs=given)
        pool.__enter__()
        return pool


@contextmanager
def processes(share: Share, gpus: int) -> Iterator[Runner]:
    """Have a pool of processes while the context is open.

    Args:
        share: how many, and the threads of each.
        gpus: GPUs of this machine; each process gets one of several.
    """
    # For as long as processes may be started: they are when they are needed.
    with environment(inherited(share.threads)):
        runner = Processes(share, gpus)
        try:
            yield runner
        except BaseException:
            runner.stop()
            raise
        finally:
            runner.close()
