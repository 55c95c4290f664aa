"""A Dask cluster in processes of its own, as on several machines: scheduler and workers, each of which can die."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.command import environment
from tests.prefect_service import kill

_TIMEOUT_S = 120


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
        deadline = time.monotonic() + _TIMEOUT_S
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
    deadline = time.monotonic() + _TIMEOUT_S
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
