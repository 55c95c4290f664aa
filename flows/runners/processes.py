"""Work units in processes of one machine, one GPU each where there are several."""

from __future__ import annotations

import logging
import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.queues import SimpleQueue
from typing import Any

from prefect import Task
from prefect.task_runners import ProcessPoolTaskRunner

from flows.errors import WorkersLost
from flows.runners.base import Runner, stopped
from flows.runners.kinds import Share
from flows.runners.worker_process import begin, environment, inherited
from stac.io.secrets import kept

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
