"""Restoring on a Dask cluster."""

from __future__ import annotations

import importlib.util
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import dask
import distributed
from distributed import KilledWorker, LocalCluster, Worker
from distributed.client import FutureCancelledError, FuturesCancelledError
from distributed.diagnostics.plugin import WorkerPlugin
from prefect import Task
from prefect_dask import DaskTaskRunner

from flows import __version__
from flows.errors import InvalidSettings, WorkerKilled, WorkersLost
from flows.execution.processes import follow_parent, inherited, limit_threads, use_gpu
from flows.execution.threads import Runner, stopped
from flows.settings.fields import Share
from stac.io.secrets import Kept, kept, take, without_secret


class Begin(WorkerPlugin):
    """Makes a worker of this machine ready: its share of the cores, its GPU, and all that a task imports."""

    name = "unveil"

    def __init__(self, threads: int, gpus: int, secrets: Kept) -> None:
        """Tell what the worker gets.

        Args:
            threads: of numeric libraries.
            gpus: GPUs to be shared out by the number of the worker; 0 where it sees what it should already.
            secrets: logins and signatures of addresses.
        """
        self._threads, self._gpus, self._secrets = threads, gpus, secrets

    def setup(self, worker: Worker) -> None:
        """Run in the worker, before its first task."""
        take(self._secrets)
        follow_parent()
        if self._gpus:
            use_gpu(int(worker.name) % self._gpus)
        limit_threads(self._threads)
        import_module("flows.execution.tasks")


def looks(path: str) -> tuple[str, bool, bool]:
    """Return the version of Unveil on a worker, whether it sees a file of the run, and whether Dask profiles it."""
    import_module("flows.execution.tasks")
    return __version__, Path(path).is_file(), bool(dask.config.get("distributed.worker.profile.enabled"))


_log = logging.getLogger(__name__)

#: A scheduler has to answer within this time, and a cluster may be without workers for so long, seconds.
_CONNECT_S, _NO_WORKERS_S = 20.0, 60.0
#: How often it is looked whether there are workers still, and how many, seconds.
_LOOK_S = 5.0
#: Workers that one task may lose before it is given up.
_LOST_WORKERS = 3
#: The profiler of Dask looks at all threads of a worker every 10 ms (`sys._current_frames`). In Python 3.11 that
#: can wait for ever for a thread that is being born, and reading scenes starts many: a worker was seen to hang so.
_UNPROFILED = {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}
_OPTIONS = {
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.allowed-failures": _LOST_WORKERS,
    "distributed.comm.timeouts.connect": f"{_CONNECT_S:g}s",
}
_WITHOUT = "start some with `dask worker ADDRESS --nthreads 1`, or leave --dask-scheduler out"


class Cluster(Runner):
    """Carries tasks out in the workers of a Dask cluster, through Prefect's task runner for Dask.

    A task whose worker is lost begins again on another one, with the blocks that are finished.
    """

    elsewhere = True

    def __init__(self, runner: DaskTaskRunner, place: str, wanted: int | None) -> None:
        self._runner, self._client, self._place, self._wanted = runner, runner.client, place, wanted
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self._waiting: set[Any] = set()
        self._looked, self._seen, self._in_flight = 0.0, time.monotonic(), 1
        self._look()

    def call(self, task: Task[..., Any], **parameters: Any) -> Any:
        """Carry a task out on some worker."""
        future = None
        try:
            future = self._runner.submit(task, parameters)
            self._waiting.add(future.wrapped_future)
            if self._stopped.is_set():
                raise stopped()
            self._wait(future.wrapped_future)
            return future.result()
        except (FutureCancelledError, FuturesCancelledError) as error:
            raise (stopped() if self._stopped.is_set() else self._gone()) from error
        except KilledWorker as error:
            raise WorkerKilled(
                f"Task {task.name} was given up: {_LOST_WORKERS + 1} workers were killed with it in hand, most likely "
                "as memory ran out; give fewer --workers to a machine."
            ) from error
        except Exception as error:
            if self._stopped.is_set():
                raise stopped() from error
            if future is None or self._client.status != "running":
                raise self._gone() from error
            raise
        finally:
            if future is not None:
                self._waiting.discard(future.wrapped_future)

    def stop(self) -> None:
        """Cancel all tasks; on a cluster that goes on living one in hand ends at its next tile."""
        self._stopped.set()
        if self._client.status != "running":
            return  # nobody to tell; its futures are cancelled already
        with suppress(Exception):  # whatever is wrong with a scheduler that is left
            self._client.cancel(list(self._waiting), force=True)

    @property
    def in_flight(self) -> int:
        """A few more than the workers have threads; workers may come and go."""
        with suppress(WorkersLost):  # those who wait for a task tell it
            self._look()
        return self._in_flight

    def _wait(self, future: distributed.Future) -> None:
        """Wait for the end of a task for as long as there are workers."""
        while True:
            try:
                future.result(timeout=_LOOK_S)
                return
            except TimeoutError:  # never the task's own: that is part of the state it returned
                self._look()

    def _look(self) -> None:
        """Count the workers from time to time.

        Raises:
            WorkersLost: there has been none for a while, or the scheduler does not answer.
        """
        with self._lock:
            now = time.monotonic()
            if now - self._looked < _LOOK_S and self._looked:
                return
            self._looked = now
            try:
                threads = sum(self._client.nthreads().values())
            except Exception as error:
                raise self._gone() from error
            if threads:
                self._seen = now
                self._in_flight = Share(self._wanted or threads, 1).in_flight
            elif now - self._seen > _NO_WORKERS_S:
                raise WorkersLost(f"The Dask scheduler {self._place} has no workers any more; {_WITHOUT}.")

    def _gone(self) -> WorkersLost:
        return WorkersLost(
            f"The Dask scheduler {self._place} went away; nothing half-done is published. The same command continues, "
            "once there is a scheduler again."
        )


@contextmanager
def cluster_at(address: str, wanted: int | None, seen: Path) -> Iterator[Runner]:
    """Use a cluster that is there while the context is open; how many workers it has is its own business.

    Args:
        address: of the scheduler, e.g. tcp://scheduler:8786.
        wanted: units that this run may work on at once; as many as there are threads when None.
        seen: a file of the run that the workers have to see, too.

    Raises:
        WorkersLost: nobody answers there, or no worker comes.
        InvalidSettings: workers do not see the run's files, or have another version of Unveil.
    """
    address = without_secret(address)  # Dask knows no login, and Prefect logs where it connects to
    with _quiet(), DaskTaskRunner(address=address, client_kwargs={"timeout": _CONNECT_S}) as runner:
        try:
            client = runner.client
            client.wait_for_workers(1, timeout=_NO_WORKERS_S)
        except (OSError, ValueError) as error:  # time-outs are among the first
            raise WorkersLost(
                f"Dask scheduler {address} does not answer or has no workers ({type(error).__name__}); {_WITHOUT}."
            ) from error
        _check(client, seen)
        with _stopping(Cluster(runner, address, wanted)) as cluster:
            yield cluster


@contextmanager
def local_cluster(share: Share, gpus: int) -> Iterator[Runner]:
    """Have a cluster of processes on this machine while the context is open.

    Args:
        share: how many workers, and the threads of each.
        gpus: GPUs of this machine; with dask-cuda its own cluster is used, otherwise each worker gets one by number.
    """
    by_cuda = bool(gpus) and importlib.util.find_spec("dask_cuda") is not None
    options: dict[str, Any] = {"n_workers": share.workers, "threads_per_worker": 1, "dashboard_address": None}
    if by_cuda:
        options["n_workers"] = min(share.workers, gpus)
    else:
        options |= {"processes": True, "memory_limit": 0, "env": inherited(share.threads) | _UNPROFILED}
    made = "dask_cuda.LocalCUDACluster" if by_cuda else LocalCluster
    options["silence_logs"] = logging.CRITICAL
    with _quiet(), DaskTaskRunner(cluster_class=made, cluster_kwargs=options) as runner:
        runner.client.register_plugin(Begin(share.threads, 0 if by_cuda else gpus, kept()))
        with _stopping(Cluster(runner, "of this run", None)) as cluster:
            yield cluster


@contextmanager
def _stopping(cluster: Cluster) -> Iterator[Cluster]:
    """Let go of what is in hand when the run ends early."""
    try:
        yield cluster
    except BaseException:
        cluster.stop()
        raise


def _check(client: distributed.Client, seen: Path) -> None:
    """Raise unless every worker has this version of Unveil and sees the run's files."""
    try:
        told = client.run(looks, str(seen.resolve()))
    except Exception as error:
        raise InvalidSettings(
            f"A Dask worker cannot run Unveil ({type(error).__name__}: {error}); install unveil-eo[dask] there."
        ) from error
    if any(profiled for *_, profiled in told.values()):
        _log.warning(
            "Dask's workers profile themselves, which can make them hang; start them with %s",
            "=".join(*_UNPROFILED.items()),
        )
    for worker, (version, sees, _) in told.items():
        if version != __version__:
            raise InvalidSettings(
                f"Dask worker {worker} has Unveil {version}, this is {__version__}; update one of them."
            )
        if not sees:
            raise InvalidSettings(
                f"Dask worker {worker} does not see {seen}; name a --state-dir and an --out that all machines share."
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own lines, which would tear the progress bar: what matters is raised."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with dask.config.set(_OPTIONS):
            yield
    finally:
        logger.setLevel(level)
