"""Which task runner a run gets, how a machine is shared, and what mapping on one gives."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner

from flows import __version__
from flows.errors import InvalidSettings
from flows.planning.plan_file import freeze, settings_of
from flows.planning.workunit import ModelRef
from flows.progress import report_progress
from flows.running.dask_cluster import Cluster, Probe, local_cluster, probe_worker
from flows.running.task_runners import check_runner, open_workers
from flows.running.workers import Share, share_of
from flows.settings.fields import RunnerKind
from flows.settings.loading import load_settings
from stac.errors import UnreadableAsset

MODEL = ModelRef("unveil-de", "1", "a" * 64, "weights")
#: Seconds after which a test that hangs fails.
_LONG_S = 60


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"runner": "spark"}, "runner"),
        ({"runner": "threads", "workers": 0}, "workers"),
        ({"workers": 2}, "2 workers need a runner"),
        ({"dask_scheduler": "tcp://there:8786"}, "needs --runner dask"),
        ({"dask_scheduler": "tcp://there:8786", "runner": "processes"}, "the runner is processes"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidSettings, match=says):
        check_runner(load_settings(None, given))


def test_who_restores_is_neither_part_of_the_work_nor_of_a_frozen_plan() -> None:
    given = load_settings(None, {"runner": "dask", "workers": 7, "dask_scheduler": "tcp://there:8786"})
    assert given.parameters == load_settings().parameters
    plan = freeze((), given, MODEL)
    assert {"runner", "workers", "dask_scheduler"}.isdisjoint(plan.settings)
    assert plan.request == freeze((), load_settings(), MODEL).request
    here = settings_of(plan, load_settings(None, {"runner": "threads", "workers": 2}))
    assert (here.runner, here.workers, here.dask_scheduler) == (RunnerKind.THREADS, 2, None)


def test_workers_share_the_cores_and_never_ask_for_more() -> None:
    cores = len(os.sched_getaffinity(0))
    for wanted in (1, 2, 3, cores, 4 * cores):
        share = share_of(wanted, gpus=0)
        assert share.workers == wanted and share.threads >= 1
        assert share.threads * share.workers <= max(cores, wanted)
    assert share_of(1, gpus=0).threads == cores and share_of(1, gpus=0, threads=1).threads == 1
    assert 1 <= share_of(None, gpus=0).workers <= cores
    assert (share_of(None, gpus=8).workers, share_of(2, gpus=8).workers) == (8, 2), "one for every GPU"


@task
def work(payload: int, together: threading.Barrier) -> int:
    if payload < 6:
        together.wait(_LONG_S)  # broken unless three are at work
    if payload == 4:
        raise UnreadableAsset("cut short")
    return 10 * payload


@flow
def mapping(settings: Any) -> list[tuple[int, Any]]:
    with open_workers(settings) as workers:
        workers.batch = 6
        return list(workers.map(work, range(9), together=threading.Barrier(3)))


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["settings", "flow"])
def test_units_are_mapped_on_the_runner_that_was_asked_for(services_here: None, whose: str) -> None:
    settings, mapped = load_settings(None, {"runner": "threads", "workers": 3}), mapping
    if whose == "flow":
        settings = load_settings()
        mapped = mapping.with_options(task_runner=ThreadPoolTaskRunner(max_workers=3))
    ended = dict(mapped(settings))
    assert isinstance(ended.pop(4), UnreadableAsset)
    assert ended == {number: 10 * number for number in range(9) if number != 4}


@task
def endless(payload: int, begun: threading.Event) -> None:
    begun.set()
    while True:
        report_progress("still at it")


@flow
def interrupted(settings: Any) -> None:
    begun = threading.Event()
    with open_workers(settings) as workers:
        workers.runner.submit(endless, {"payload": 0, "begun": begun})
        assert begun.wait(_LONG_S)
        raise KeyError("stop")


@pytest.mark.slow
def test_a_run_that_stops_ends_the_units_in_its_threads(services_here: None) -> None:
    with pytest.raises(KeyError, match="stop"):
        interrupted(load_settings())


@pytest.mark.slow
def test_workers_of_this_machine_are_not_profiled(tmp_path: Path) -> None:
    """Dask's profiler made a worker hang."""
    settings = load_settings(None, {"out": str(tmp_path)})
    with local_cluster(Share(1, 1), 0) as cluster:
        assert isinstance(cluster, Cluster)
        (probe,) = cluster.client.run(probe_worker, settings.shareable, str(tmp_path)).values()
    ledger = str(settings.state.resolve() / "ledger.db")
    assert probe == Probe(__version__, os.uname().nodename, True, ledger, profiled=False)
