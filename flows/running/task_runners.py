"""The Prefect task runner that units are mapped on: of the flow, or threads, processes, Dask by the settings."""

from __future__ import annotations

import importlib.util
import multiprocessing
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from multiprocessing.queues import SimpleQueue
from typing import Any

from prefect.context import FlowRunContext
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flows.errors import InvalidSettings
from flows.progress import listening
from flows.running.tasks import gpus_of
from flows.running.workers import (
    Processes,
    Share,
    Threads,
    Workers,
    begin_pool_worker,
    environment,
    inherited,
    share_of,
)
from flows.settings import RunSettings
from flows.settings.fields import RunnerKind
from stac.io.secrets import kept


def check_runner(settings: RunSettings) -> None:
    """Raise before anything is searched when a task runner cannot be had.

    Raises:
        InvalidSettings: settings contradict each other, or Dask is not installed.
    """
    kind = settings.runner
    if settings.dask_scheduler and kind is not RunnerKind.DASK:
        raise InvalidSettings(f"--dask-scheduler needs --runner dask, and the runner is {kind}.")
    if (settings.workers or 1) > 1 and kind is RunnerKind.FLOW:
        raise InvalidSettings(f"{settings.workers} workers need a runner: threads, processes or dask.")
    if kind is RunnerKind.DASK and importlib.util.find_spec("prefect_dask") is None:
        raise InvalidSettings("--runner dask needs prefect-dask; install unveil-eo[dask], or name another runner.")


@contextmanager
def open_workers(settings: RunSettings) -> Iterator[Workers[Any]]:
    """Start the task runner that the settings name; at an early end units in progress are ended first.

    Args:
        settings: name the runner, how many workers, and perhaps a scheduler. `flow` is the task runner of the flow in
            whose run this is called: one thread, or whatever it was given by `with_options`.

    Raises:
        WorkersLost: there are no workers to be had.
        InvalidSettings: workers do not fit.
    """
    with _workers_of(settings) as workers:
        try:
            yield workers
        except BaseException:
            workers.stop()
            raise


def _workers_of(settings: RunSettings) -> AbstractContextManager[Workers[Any]]:
    gpus = gpus_of(settings)
    share = share_of(settings.workers, gpus, settings.worker_threads)
    match settings.runner:
        case RunnerKind.FLOW:
            if (context := FlowRunContext.get()) is None:
                raise InvalidSettings("runner is flow outside the run of a flow; name threads, processes or dask.")
            return _threads(context.task_runner.duplicate())
        case RunnerKind.THREADS:
            return _threads(ThreadPoolTaskRunner(max_workers=share.workers), share.threads)
        case RunnerKind.PROCESSES:
            return _processes(share, gpus)
        case RunnerKind.DASK:
            from flows.running.dask_cluster import cluster_at, local_cluster

            return cluster_at(settings) if settings.dask_scheduler else local_cluster(share, gpus)


@contextmanager
def _threads(runner: TaskRunner[Any], threads: int | None = None) -> Iterator[Workers[Any]]:
    """Start a runner of threads; each computes with its share of the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        workers: Threads[Any] = Threads(runner)
        # The runner waits for its units at its end: they must still hear there that they are to stop.
        with listening(workers.check), runner:
            yield workers
    finally:
        torch.set_num_threads(before)


@contextmanager
def _processes(share: Share, gpus: int) -> Iterator[Workers[Any]]:
    """Have a pool of processes while the context is open; each gets one of several GPUs."""

    def pool() -> ProcessPoolTaskRunner:
        context = multiprocessing.get_context("spawn")
        numbers: SimpleQueue[int] | None = None
        if gpus > 1:
            numbers = context.SimpleQueue()
            for number in range(share.workers):
                numbers.put(number % gpus)
        given = (share.threads, kept(), numbers)
        return ProcessPoolTaskRunner(max_workers=share.workers, initializer=begin_pool_worker, initargs=given)

    # For as long as processes may be started: they are when they are needed.
    with environment(inherited(share.threads)), ExitStack() as opened:
        yield Processes(opened, pool)
