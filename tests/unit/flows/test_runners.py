"""Which runner a run gets, how a machine is shared, and that no pixel depends on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows import __version__
from flows.errors import InvalidSettings
from flows.execution.dask import Cluster, local_cluster, looks
from flows.execution.opening import check_runner
from flows.planning.plan_file import freeze, settings_of
from flows.planning.workunit import ModelRef
from flows.settings.fields import RunnerKind, Share, share_of, thread_limits
from flows.settings.loading import load_settings

MODEL = ModelRef("unveil-de", "1", "a" * 64, "weights")


def test_units_are_made_one_after_the_other_unless_asked_for() -> None:
    assert load_settings().runner is RunnerKind.SERIAL and load_settings().workers is None
    check_runner(load_settings())


def test_the_runner_is_set_like_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNVEIL_RUNNER", "threads")
    monkeypatch.setenv("UNVEIL_WORKERS", "3")
    assert (load_settings().runner, load_settings().workers) == (RunnerKind.THREADS, 3)
    assert load_settings(None, {"runner": "dask"}).runner is RunnerKind.DASK


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
def test_settings_that_contradict_each_other_are_told(given: dict[str, object], says: str) -> None:
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


def test_every_gpu_gets_one_worker() -> None:
    assert share_of(None, gpus=8).workers == 8
    assert share_of(2, gpus=8).workers == 2


def test_a_run_has_more_units_in_hand_than_workers() -> None:
    assert [Share(n, 1).in_flight for n in (1, 2, 4, 40)] == [2, 3, 5, 50]


def test_numeric_libraries_are_told_their_threads() -> None:
    assert set(thread_limits(3).values()) == {"3"} and "OMP_NUM_THREADS" in thread_limits(3)


def test_flow_and_tasks_travel_to_other_processes() -> None:
    import cloudpickle

    from flows.execution.tasks import publish, restore
    from flows.mosaic import clear_scenes

    for thing in (clear_scenes, restore, publish):
        assert len(cloudpickle.dumps(thing)) < 100_000


@pytest.mark.slow
def test_workers_of_this_machine_are_not_profiled(tmp_path: Path) -> None:
    """Dask's profiler made a worker hang."""
    (seen := tmp_path / "seen").touch()
    with local_cluster(Share(1, 1), 0) as cluster:
        assert isinstance(cluster, Cluster)
        told = cluster._client.run(looks, str(seen))
    assert list(told.values()) == [(__version__, True, False)]
