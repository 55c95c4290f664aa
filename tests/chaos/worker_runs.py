"""Runs of the deployment `clear-scenes` by a Prefect worker, which is what gets killed: worker, run and all."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.command import TINY_BBOX, environment
from tests.prefect_service import FINAL, PrefectService, end, kill, prefect_service, start_worker

_POLL_S = 0.2
_TIMEOUT_S = 300
_DEPLOYMENT = "clear-scenes/clear-scenes"


@dataclass(slots=True)
class WorkerRun:
    """A run that a worker has been asked for; looks like a process."""

    service: PrefectService
    worker: subprocess.Popen[bytes]
    run_id: str
    ended: int | None = None

    @property
    def pid(self) -> int:
        """Process of the worker."""
        return self.worker.pid

    @property
    def exitcode(self) -> int | None:
        """0 when the run is completed, 1 when it ended otherwise or its worker is dead, None before."""
        if self.ended is None:
            if self.worker.poll() is not None:
                self.ended = 1
            with suppress(httpx.HTTPError):
                state = httpx.get(f"{self.service.url}/flow_runs/{self.run_id}", timeout=10).json()["state_type"]
                self.ended = int(state != "COMPLETED") if state in FINAL else self.ended
        return self.ended

    def join(self, seconds: float) -> None:
        """Wait for the end."""
        deadline = time.monotonic() + seconds
        while self.exitcode is None and time.monotonic() < deadline:
            time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))


class WorkerFlow:
    """Runs through a worker, which is started again after a kill."""

    def __init__(self, work: Path, service: PrefectService, settings: dict[str, str]) -> None:
        self.work, self.state, self.log = work, work / "state", work / "log"
        self.service, self.settings = service, settings
        self.worker: subprocess.Popen[bytes] | None = None

    def begin(self, out: Path) -> WorkerRun:
        """Ask for a run, and return when the worker has begun it."""
        if self.worker is None or self.worker.poll() is not None:
            self.log.unlink(missing_ok=True)
            self.worker = start_worker(self.service, self.log, self.settings)
        with self.log.open("w"):  # the worker appends
            pass
        settings = {"bbox": TINY_BBOX, "out": str(out), "state_dir": str(self.state)}
        run = WorkerRun(self.service, self.worker, self.service.run(_DEPLOYMENT, {"settings": settings}))
        deadline = time.monotonic() + _TIMEOUT_S
        while (
            "Beginning flow run" not in self.log.read_text("utf-8", "replace")
            and run.exitcode is None
            and time.monotonic() < deadline
        ):
            run.join(_POLL_S)
        return run

    def kill(self, run: WorkerRun) -> None:
        """SIGKILL to the worker and all runs it started."""
        kill(run.worker)

    def finish(self, run: WorkerRun, out: Path) -> str:
        """Wait for the end of a run; return what went wrong, nothing when all is well."""
        run.join(_TIMEOUT_S)
        return "" if run.exitcode == 0 else f"{out.name}: a run ended with {run.exitcode}: {self.told}"

    @property
    def told(self) -> str:
        """The end of what worker and run wrote."""
        return self.log.read_text("utf-8", errors="replace")[-4000:] if self.log.is_file() else ""

    def close(self) -> None:
        """Stop the worker."""
        if self.worker is not None:
            end(self.worker)


@contextmanager
def worker_flow(work: Path, settings: dict[str, str]) -> Iterator[WorkerFlow]:
    """Run a whole server with the deployment, and a worker as needed, while the context is open."""
    home = work / "server"
    home.mkdir(parents=True)
    with prefect_service(home, environment(home)) as service:
        service.command("work-pool", "create", "unveil", "--type", "process")
        service.command("deploy", "--name", "clear-scenes")
        # A dead run counts until an automation has called it so; here the next one comes at once.
        service.ask("PATCH", f"deployments/{service.deployment(_DEPLOYMENT)['id']}", {"concurrency_limit": None})
        flow = WorkerFlow(work, service, settings)
        try:
            yield flow
        finally:
            flow.close()
