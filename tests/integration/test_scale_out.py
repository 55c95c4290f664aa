"""Runs whose units are restored by several workers: the same bytes, whoever dies meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from flows.ledger.schema import Entry, State
from flows.ledger.store import open_ledger
from flows.settings.loading import load_settings
from tests.chaos.evidence import files_of, leftovers_of, problems_of, unlinked_of, work_ids_of
from tests.command import TINY_BBOX, Outcome, Run, environment, start, unveil
from tests.prefect_service import kill

pytestmark = [pytest.mark.slow, pytest.mark.integration]
_TIMEOUT_S = 300


def lines(out: Path) -> dict[str, Entry]:
    with closing(open_ledger(load_settings(None, {"out": out}))) as ledger:
        return {entry.work_id: entry for entry in ledger.page(100).entries}


def executions(out: Path) -> set[Path]:
    """Folders of tasks that restore, or restored: one for every time that one began."""
    with contextlib.suppress(FileNotFoundError):  # a folder that was there a moment ago
        return {path for path in out.glob(".staging/????????-????-*/*") if path.is_dir()}  # of units, not of mirrors
    return set()


def await_(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


def ended(
    process: subprocess.Popen[str], watch: Callable[[], Iterable[Path]] | None = None
) -> tuple[Outcome, set[Path]]:
    """Wait for the end of a command, and gather what is seen meanwhile."""
    seen: set[Path] = set()
    deadline = time.monotonic() + _TIMEOUT_S
    while watch is not None and process.poll() is None and time.monotonic() < deadline:
        seen |= set(watch())
        time.sleep(0.01)
    out, err = process.communicate(timeout=_TIMEOUT_S)
    return Outcome(process.returncode, out, err), seen


def require_as_serial(out: Path, serial: Run) -> None:
    """Nothing is lost, doubled, damaged, left behind, or different in a single byte."""
    assert sorted(work_ids_of(out)) == sorted(work_ids_of(serial.root))
    assert files_of(out) == files_of(serial.root)
    assert problems_of(out) == [] and unlinked_of(out) == []
    assert leftovers_of(out, out / ".unveil") == []
    assert {entry.state for entry in lines(out).values()} == {State.SUCCEEDED}


def given(out: Path, cluster: DaskCluster) -> tuple[str | Path, ...]:
    return "run", "--bbox", TINY_BBOX, "--out", out, "--runner", "dask", "--dask-scheduler", cluster.address, "--json"


@pytest.mark.thorough
def test_a_cluster_that_loses_a_worker_in_mid_run_loses_doubles_and_changes_nothing(
    tiny_run: Run, services: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "catalog"
    with dask_cluster(tmp_path / "dask", workers=2, extra=services) as cluster:
        process = start(*given(out, cluster), home=tmp_path / "home", extra=services)
        await_(lambda: len(executions(out)) == 2, process)  # one is in the hands of each worker
        kill(cluster.workers[0])
        outcome, seen = ended(process, lambda: executions(out))
        assert outcome.status == 0, (outcome.err, cluster.told())
        assert cluster.workers[1].poll() is None
    assert len(seen) == 3, "the unit of the dead worker was begun again by the other one"
    assert [unit["state"] for unit in outcome.document["units"]] == ["SUCCEEDED"] * 2
    assert {entry.attempts for entry in lines(out).values()} == {1}
    require_as_serial(out, tiny_run)


@pytest.mark.thorough
def test_a_scheduler_that_goes_away_ends_the_run_with_one_sentence_and_the_next_run_completes_it(
    tiny_run: Run, services: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "catalog"
    with dask_cluster(tmp_path / "dask", workers=1, extra=services) as cluster:
        process = start(*given(out, cluster), home=tmp_path / "home", extra=services)
        await_(lambda: bool(executions(out)), process)
        kill(cluster.scheduler)
        outcome, _ = ended(process)
        assert outcome.status == 1 and "went away" in outcome.sentence, (outcome.err, cluster.told())
        assert cluster.address in outcome.sentence and "continues" in outcome.sentence
        assert work_ids_of(out) == [], "nothing half-done is published"
        assert {entry.state for entry in lines(out).values()} == {State.ABORTED}

        nobody = unveil(*given(out, cluster), home=tmp_path / "home", extra=services)
        assert nobody.status == 1 and "does not answer" in nobody.sentence and cluster.address in nobody.sentence
    again = unveil("run", "--bbox", TINY_BBOX, "--out", out, "--json", home=tmp_path / "home", extra=services)
    assert again.status == 0, again.err
    require_as_serial(out, tiny_run)


@pytest.mark.thorough
@pytest.mark.parametrize("runner", ["threads", "processes"])
def test_threads_and_processes_make_the_same_bytes(
    runner: str, tiny_run: Run, services: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "catalog"
    arguments = ("run", "--bbox", TINY_BBOX, "--out", out, "--runner", runner, "--workers", "2", "--json")
    outcome = unveil(*arguments, home=tmp_path / "home", extra=services)
    assert outcome.status == 0, outcome.err
    require_as_serial(out, tiny_run)


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Processes that run Python for a command; what only keeps books for them is none."""
    every = psutil.Process(process.pid).children(recursive=True)
    return [child for child in every if "resource_tracker" not in " ".join(child.cmdline())]


@pytest.mark.thorough
@pytest.mark.parametrize("runner", ["threads", "processes", "dask"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_leaves_no_one_and_nothing_and_is_continued(
    runner: str, how: signal.Signals, tiny_run: Run, services: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "catalog"
    arguments = ("run", "--bbox", TINY_BBOX, "--out", out, "--runner", runner, "--workers", "2", "--json")
    process = start(*arguments, home=tmp_path / "home", extra=services)
    await_(lambda: len(executions(out)) == 2, process)
    workers = children(process)
    assert len(workers) >= (0 if runner == "threads" else 2)
    # As a terminal does: the signal goes to all.
    os.killpg(process.pid, how) if how is signal.SIGINT else process.kill()
    began = time.monotonic()
    outcome, _ = ended(process)
    assert time.monotonic() - began < 60
    if how is signal.SIGINT:
        assert outcome.status == 130, outcome.err
        assert {entry.state for entry in lines(out).values()} <= {State.ABORTED, State.SUCCEEDED}
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    again = unveil(*arguments, home=tmp_path / "home", extra=services)
    assert again.status == 0, again.err
    require_as_serial(out, tiny_run)


@pytest.mark.thorough
@pytest.mark.parametrize("runner", ["processes", "dask"])
def test_a_worker_of_this_machine_that_is_killed_is_replaced(
    runner: str, tiny_run: Run, services: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "catalog"
    arguments = ("run", "--bbox", TINY_BBOX, "--out", out, "--runner", runner, "--workers", "2", "--json")
    process = start(*arguments, home=tmp_path / "home", extra=services)
    await_(lambda: len(executions(out)) == 2, process)
    children(process)[-1].kill()
    outcome, seen = ended(process, lambda: executions(out))
    assert outcome.status == 0, outcome.err
    assert len(seen) > 2
    require_as_serial(out, tiny_run)


_READY_S = 120


@dataclass(slots=True)
class DaskCluster:
    """A running scheduler."""

    scheduler: subprocess.Popen[bytes]
    address: str
    folder: Path
    environment: Mapping[str, str]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_workers(self, number: int) -> None:
        """Start workers, and wait until the scheduler knows them."""
        logs = [self.folder / f"worker-{len(self.workers) + n}.log" for n in range(number)]
        for _ in range(number):
            with (self.folder / f"worker-{len(self.workers)}.log").open("wb") as log:
                given = (self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
                self.workers.append(_start("distributed.cli.dask_worker", *given, log=log, env=self.environment))
        deadline = time.monotonic() + _READY_S
        while not all("Registered to" in log.read_text("utf-8", errors="replace") for log in logs):
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.1)

    def told(self) -> str:
        """Return what workers and scheduler wrote."""
        return "\n".join(path.read_text("utf-8", errors="replace")[-2000:] for path in self.folder.glob("*.log"))


@contextmanager
def dask_cluster(folder: Path, workers: int, extra: Mapping[str, str] | None = None) -> Iterator[DaskCluster]:
    """Run a scheduler and some workers while the context is open."""
    folder.mkdir(parents=True)
    env = environment(folder / "home", extra)
    ready = folder / "scheduler.json"
    with (folder / "scheduler.log").open("wb") as log:
        given = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(ready))
        scheduler = _start("distributed.cli.dask_scheduler", *given, log=log, env=env)
    cluster = DaskCluster(scheduler, "", folder, env)
    try:
        cluster.address = _address(ready, scheduler)
        cluster.add_workers(workers)
        yield cluster
    finally:
        for process in (*cluster.workers, scheduler):
            kill(process)


def _address(ready: Path, scheduler: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and scheduler.poll() is None:
        if ready.is_file() and (text := ready.read_text("utf-8")).strip().endswith("}"):
            return str(json.loads(text)["address"])
        time.sleep(0.1)
    raise AssertionError("the Dask scheduler did not start")


def _start(module: str, *arguments: str, log: object, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=log,  # type: ignore[call-overload]
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
