"""A whole Prefect server and its worker, as an operator runs them: each a process (group) of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from flows.services.process import free_port

ROOT = Path(__file__).resolve().parents[1]
PREFECT = (sys.executable, "-m", "prefect")
T = TypeVar("T")
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_START_S, _STOP_S = 240, 20


@dataclass(slots=True)
class PrefectService:
    """A server on a port and home of its own; it can be stopped and started again."""

    home: Path
    #: Environment of all its processes, `tests.command.environment(home)`.
    base: Mapping[str, str]
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    #: User name and password, where the server asks for them.
    auth: tuple[str, str] | None = None

    @property
    def url(self) -> str:
        """Address of the API."""
        return f"http://127.0.0.1:{self.port}/api"

    def client(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of a client."""
        ours = {
            "PREFECT_API_URL": self.url,
            "PREFECT_CLI_PROMPT": "false",
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
        }
        return {**self.base, **ours, **(extra or {})}

    def start(self) -> None:
        """Start the server and wait until it answers."""
        log = self.home / "server.log"
        arguments = ("server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        self.process = spawn(arguments, self.client(), log)
        poll(lambda: self._answers() or None, f"the Prefect server did not start, see {log}", _START_S)

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=2).is_success
        return False

    def stop(self) -> None:
        """Stop the server; its home stays."""
        if self.process is not None:
            end(self.process)

    def command(self, *arguments: str, **extra: str) -> str:
        """Run `prefect ARGUMENTS` to its end."""
        done = subprocess.run(
            [*PREFECT, *arguments],
            cwd=ROOT,
            env=self.client(extra),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the API's answer to a request."""
        return ask(method, f"{self.url}/{path}", body, self.auth)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the API's answer to a body."""
        return self.ask("POST", path, body)

    def deployment(self, name: str) -> dict[str, Any]:
        """Return the deployment `FLOW/NAME`."""
        return dict(self.ask("GET", f"deployments/name/{name}"))

    def run(self, name: str, parameters: Mapping[str, Any] | None = None) -> str:
        """Ask for a run of a deployment now; return its id."""
        body = {"parameters": dict(parameters or {}), "state": {"type": "SCHEDULED"}}
        return str(self.post(f"deployments/{self.deployment(name)['id']}/create_flow_run", body)["id"])

    def runs(self, name: str) -> list[dict[str, Any]]:
        """Return the runs of a deployment that are not of its schedule."""
        body = {"deployments": {"id": {"any_": [self.deployment(name)["id"]]}}}
        return [run for run in self.post("flow_runs/filter", body) if not run["auto_scheduled"]]

    def ended(self, run_id: str, seconds: float = 400) -> dict[str, Any]:
        """Wait for the end of a run; return its last state."""

        def look() -> dict[str, Any] | None:
            with contextlib.suppress(httpx.HTTPError):  # the server may be away for a while
                answer = httpx.get(f"{self.url}/flow_runs/{run_id}", timeout=5, auth=self.auth)
                state: dict[str, Any] = answer.json()["state"]
                return state if state["type"] in FINAL else None
            return None

        return poll(look, f"run {run_id} did not end", seconds)


def ask(method: str, url: str, body: Mapping[str, Any] | None = None, auth: tuple[str, str] | None = None) -> Any:
    """Return the answer of a Prefect API; asked again while its database is locked, as Prefect's own client does.

    What only reads is also asked again when no answer comes.
    """

    def once() -> httpx.Response | None:
        try:
            answer = httpx.request(method, url, json=body, timeout=60, auth=auth)
        except httpx.TimeoutException:
            if method != "GET":
                raise
            return None
        return None if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else answer

    answer = poll(once, f"{url} was not answered").raise_for_status()
    return answer.json() if answer.content else None


def spawn(arguments: tuple[str, ...], env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start `prefect ARGUMENTS` in the root of the repository, in a process group of its own."""
    with log.open("ab") as record:
        return subprocess.Popen(
            [*PREFECT, *arguments],
            cwd=ROOT,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=record,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def start_worker(service: PrefectService, log: Path, extra: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a worker of the pool `unveil`."""
    return spawn(("worker", "start", "--pool", "unveil", "--install-policy", "never"), service.client(extra), log)


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a process politely, then for good, and all it started with it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
    kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and all it started, as when a machine loses its power."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(_STOP_S)


def poll(look: Callable[[], T | None], told: str, seconds: float = 300) -> T:
    """Return what `look` finds; fail with `told` when it finds nothing in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        time.sleep(0.3)
    raise AssertionError(f"{told} within {seconds:.0f} s")


@contextlib.contextmanager
def prefect_service(home: Path, base: Mapping[str, str]) -> Iterator[PrefectService]:
    """Run a server while the context is open."""
    service = PrefectService(home, base)
    try:
        service.start()
        yield service
    finally:
        service.stop()
