"""Opening the runner that a run was asked to use."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.errors import InvalidSettings
from flows.execution.threads import Runner, Serial
from flows.settings import Device, RunSettings
from flows.settings.fields import RunnerKind, share_of


def check_runner(settings: RunSettings) -> None:
    """Raise before anything is searched when a runner cannot be had.

    Raises:
        InvalidSettings: settings contradict each other, or Dask is not installed.
    """
    kind = settings.runner
    if settings.dask_scheduler and kind is not RunnerKind.DASK:
        raise InvalidSettings(f"--dask-scheduler needs --runner dask, and the runner is {kind}.")
    if (settings.workers or 1) > 1 and kind is RunnerKind.SERIAL:
        raise InvalidSettings(f"{settings.workers} workers need a runner: threads, processes or dask.")
    if kind is RunnerKind.DASK and importlib.util.find_spec("prefect_dask") is None:
        raise InvalidSettings("--runner dask needs prefect-dask; install unveil-eo[dask], or name another runner.")


@contextmanager
def open_runner(settings: RunSettings, seen: Path) -> Iterator[Runner]:
    """Have the runner of a run while the context is open.

    Args:
        settings: name the runner, how many workers, and perhaps a scheduler.
        seen: a file of the run; workers on other machines have to see it.

    Raises:
        WorkersLost: there are no workers to be had.
        InvalidSettings: workers do not fit.
    """
    gpus = _gpus(settings)
    share = share_of(settings.workers, gpus, settings.worker_threads)
    match settings.runner:
        case RunnerKind.SERIAL:
            yield Serial()
        case RunnerKind.THREADS:
            from flows.execution.threads import threads

            with threads(share) as runner:
                yield runner
        case RunnerKind.PROCESSES:
            from flows.execution.processes import processes

            with processes(share, gpus) as runner:
                yield runner
        case RunnerKind.DASK if settings.dask_scheduler:
            from flows.execution.dask import cluster_at

            with cluster_at(settings.dask_scheduler, settings.workers, seen) as runner:
                yield runner
        case RunnerKind.DASK:
            from flows.execution.dask import local_cluster

            with local_cluster(share, gpus) as runner:
                yield runner


def _gpus(settings: RunSettings) -> int:
    """Return how many GPUs the run uses; asking does not touch them."""
    if settings.device is Device.CPU or not settings.use_model:
        return 0
    import torch

    return torch.cuda.device_count()
