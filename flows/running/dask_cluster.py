"""A Dask cluster as the task runner of a run: of this machine, or one whose scheduler is named."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import dask
import distributed
from distributed import KilledWorker, LocalCluster, Worker
from distributed.diagnostics.plugin import WorkerPlugin
from prefect_dask import DaskTaskRunner

from flows import __version__
from flows.errors import InvalidSettings, WorkerKilled, WorkersLost
from flows.ledger.database import shown
from flows.ledger.store import place_of
from flows.running.workers import Share, Workers, begin_worker, inherited
from flows.settings import RunSettings
from stac.io.secrets import Kept, kept, without_secret

_T = TypeVar("_T")
_log = logging.getLogger("unveil")
#: A scheduler has to answer within this time, and a cluster may be without workers for so long, seconds.
_CONNECT_S, _NO_WORKERS_S = 20.0, 60.0
#: Workers that one task may lose before it is given up.
_LOST_WORKERS = 3
#: The profiler of Dask looks at all threads of a worker every 10 ms (`sys._current_frames`). In Python 3.11 that
#: can wait for ever for a thread that is being started, and reading scenes starts many: a worker was seen to hang so.
_UNPROFILED = {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}
_OPTIONS = {
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.allowed-failures": _LOST_WORKERS,
    "distributed.comm.timeouts.connect": f"{_CONNECT_S:g}s",
}
_WITHOUT = "start some with `dask worker ADDRESS --nthreads 1`, or leave --dask-scheduler out"
#: What a task imports: loaded when a worker starts, and not while its first unit waits.
_TASKS = "flows.running.unit_tasks"


class WorkerSetup(WorkerPlugin):
    """Makes a worker of this machine ready: its share of the cores, its GPU, and all that a task imports."""

    name = "unveil"

    def __init__(self, threads: int, gpus: int, secrets: Kept) -> None:
        """Keep what the worker gets.

        Args:
            threads: of numeric libraries.
            gpus: GPUs to be shared out by the number of the worker; 0 without any.
            secrets: logins and signatures of addresses.
        """
        self._threads, self._gpus, self._secrets = threads, gpus, secrets

    def setup(self, worker: Worker) -> None:
        """Run in the worker, before its first task."""
        begin_worker(self._threads, self._secrets, int(worker.name) % self._gpus if self._gpus else None)
        import_module(_TASKS)


@dataclass(frozen=True, slots=True)
class Probe:
    """What a worker is and sees."""

    version: str
    host: str
    #: It sees the state folder of the run.
    sees: bool
    #: The ledger that it would use.
    ledger: str
    profiled: bool


def probe_worker(settings: Mapping[str, Any], folder: str) -> Probe:
    """Return what a worker is and sees; runs there."""
    import_module(_TASKS)
    profiled = bool(dask.config.get("distributed.worker.profile.enabled"))
    ledger = shown(place_of(RunSettings(**settings))[0])
    return Probe(__version__, platform.node(), Path(folder).is_dir(), ledger, profiled)


class Cluster(Workers[_T]):
    """Workers of a Dask cluster. A unit whose worker is lost begins again on another one, with its finished blocks."""

    def __init__(self, runner: DaskTaskRunner, place: str, at_once: int | None = None) -> None:
        """Watch a started runner.

        Args:
            runner: connected to its cluster.
            place: of the scheduler, for messages.
            at_once: units that this run has there at once; as many as there are threads when None.
        """
        super().__init__(runner)
        self.client, self._place, self._seen = runner.client, place, time.monotonic()
        self.batch = at_once or self.batch

    def stop(self) -> None:
        """Cancel all tasks; on a cluster that goes on living one in progress ends at its next tile."""
        if self.client.status == "running":
            with suppress(Exception):  # whatever is wrong with a scheduler that is left
                self.client.cancel([future.wrapped_future for future in self.futures], force=True)

    def look(self) -> None:
        """Count the workers.

        Raises:
            WorkersLost: there has been none for a while, or the scheduler does not answer.
        """
        try:
            threads = sum(self.client.nthreads().values())
        except Exception as error:
            raise self._gone() from error
        if threads:
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > _NO_WORKERS_S:
            raise WorkersLost(f"The Dask scheduler {self._place} has no workers left; {_WITHOUT}.")

    def lost(self, error: Exception) -> Exception:
        """Return the error of a unit that killed its workers; anything else is the end of the cluster."""
        if isinstance(error, KilledWorker):
            return WorkerKilled(
                f"The unit was given up: {_LOST_WORKERS + 1} workers were killed while they had it, most likely as "
                "memory ran out; give fewer --workers to a machine."
            )
        raise self._gone() from error

    def _gone(self) -> WorkersLost:
        return WorkersLost(
            f"The Dask scheduler {self._place} went away; nothing half-done is published. The same command continues, "
            "once there is a scheduler again."
        )


@contextmanager
def cluster_at(settings: RunSettings) -> Iterator[Workers[Any]]:
    """Connect to an existing cluster while the context is open.

    Raises:
        WorkersLost: the scheduler does not answer, or no worker comes.
        InvalidSettings: workers do not see the run's files or its ledger, or have another version of Unveil.
    """
    address = without_secret(settings.dask_scheduler or "")  # Dask has no logins, and Prefect logs the address
    with _quiet(), DaskTaskRunner(address=address, client_kwargs={"timeout": _CONNECT_S}) as runner:
        try:
            client = runner.client
            client.wait_for_workers(1, timeout=_NO_WORKERS_S)
        except (OSError, ValueError) as error:  # time-outs are among the first
            raise WorkersLost(
                f"Dask scheduler {address} does not answer or has no workers ({type(error).__name__}); {_WITHOUT}."
            ) from error
        _check(client, settings)
        yield Cluster(runner, address, settings.workers)


@contextmanager
def local_cluster(share: Share, gpus: int) -> Iterator[Workers[Any]]:
    """Have a cluster of processes on this machine while the context is open.

    Args:
        share: how many workers, and the threads of each.
        gpus: GPUs of this machine; each worker gets one by its number.
    """
    options = {
        "n_workers": share.workers,
        "threads_per_worker": 1,
        "processes": True,
        "memory_limit": 0,
        "env": inherited(share.threads) | _UNPROFILED,
        "dashboard_address": None,
        "silence_logs": logging.CRITICAL,
    }
    with _quiet(), DaskTaskRunner(cluster_class=LocalCluster, cluster_kwargs=options) as runner:
        runner.client.register_plugin(WorkerSetup(share.threads, gpus, kept()))
        yield Cluster(runner, "of this run")


def _check(client: distributed.Client, settings: RunSettings) -> None:
    """Raise unless every worker has this version of Unveil, and sees the run's files and its ledger."""
    folder, (ledger, _) = settings.state.resolve(), place_of(settings)
    try:
        probes: dict[str, Probe] = client.run(probe_worker, settings.shareable, str(folder))
    except Exception as error:
        raise InvalidSettings(
            f"A Dask worker cannot run Unveil ({type(error).__name__}: {error}); install unveil-eo[dask] there."
        ) from error
    if any(probe.profiled for probe in probes.values()):
        _log.warning(
            "Dask's workers profile themselves, which can make them hang; start them with %s",
            "=".join(*_UNPROFILED.items()),
        )
    for worker, probe in probes.items():
        problem = ""
        if probe.version != __version__:
            problem = f"has Unveil {probe.version}, this is {__version__}; update one of them"
        elif not probe.sees:
            problem = f"does not see {folder}; name a --state-dir and an --out that all machines share"
        elif probe.ledger != shown(ledger):
            problem = f"would use the ledger {probe.ledger}, not {shown(ledger)}; set UNVEIL_LEDGER_URL there, too"
        elif ledger.drivername == "sqlite" and probe.host != platform.node():
            problem = (
                f"is on another machine ({probe.host}), where a ledger in a file does not work; set UNVEIL_LEDGER_URL "
                "to a PostgreSQL database"
            )
        if problem:
            raise InvalidSettings(f"Dask worker {worker} {problem}.")


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
