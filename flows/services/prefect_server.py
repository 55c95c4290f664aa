"""A local Prefect server for as long as a command runs, and waiting for one that restarts."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from filelock import FileLock, Timeout
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from flows.errors import ServiceUnavailable
from flows.services.login import Login, ensure_login
from stac.errors import DiskFull, NotWritable
from stac.io.files import private_state

#: Longest that a server may be away, seconds.
OUTAGE_S = 120.0


def through_restart(outage_s: float = OUTAGE_S) -> Retrying:
    """Return what calls a function again while no connection to the server can be made; then its error is raised.

    Prefect's own client asks again only when it has reached the server before, and each task makes new clients.

    Args:
        outage_s: longest that is waited, seconds.
    """
    return Retrying(
        retry=retry_if_exception_type(httpx.TransportError),
        wait=wait_exponential_jitter(initial=0.5, max=10),
        stop=stop_after_delay(outage_s),
        reraise=True,
    )


Log = Callable[[str], None]

#: Seconds for a server to answer; the first start on a new state folder also creates the database.
START_TIMEOUT_S = 120.0
FIRST_START_TIMEOUT_S = 180.0
#: Seconds for a configured server to answer its health check.
HEALTH_TIMEOUT_S = 5.0
#: Seconds to send what the client still holds, and for the server to end after a polite signal.
FLUSH_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 10.0

#: What is wrong where a server wants other credentials.
REFUSED = "refuses the credentials: set PREFECT_API_AUTH_STRING (or PREFECT_API_KEY) to those of the server."
_ATTEMPTS = 3
_POLL_S = 0.05
_TAIL_LINES = 12
_DATABASE = "prefect.db"
#: Exists once the database was complete.
_READY = "database.ready"
_LOG_LIMIT_BYTES = 5_000_000

#: A server that lives for one command needs neither pages nor what watches schedules, workers and automations.
_LEAN = {
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
}


#: A disk with less room is full.
_LEAST_ROOM_BYTES = 1 << 20
#: What SQLite and the system say of a full disk, and of a database that cannot be used.
_NO_ROOM = re.compile(r"No space left|disk is full|disk I/O error|Disk quota exceeded", re.IGNORECASE)
_BROKEN_DATABASE = re.compile(r"malformed|file is not a database|Can't locate revision", re.IGNORECASE)


class _PortTaken(Exception):
    """Another process took the port between the choice and the start."""


@contextlib.contextmanager
def prefect_api(state_dir: Path, log: Log | None = None, meanwhile: Callable[[], None] | None = None) -> Iterator[str]:
    """Yield the URL of a Prefect API that answers, e.g. `http://127.0.0.1:4200/api`.

    Where `PREFECT_API_URL` is configured (environment or profile), that API is checked and used as it is. Otherwise a
    server is started with its database in `state_dir/prefect` and its log in `state_dir/logs`; flows called in this
    context report to it, and it is stopped at the end, also after an error or Ctrl-C. Call from synchronous code.

    Args:
        state_dir: folder for the database and the log; created when missing.
        log: receives one line per step.
        meanwhile: called while a local server starts, e.g. to import what the command needs next.

    Raises:
        ServiceUnavailable: the API does not answer in time, refuses the credentials, or the server ends as it starts.
        DiskFull: the server's database does not fit.
        NotWritable: `state_dir` cannot be written.
    """
    url = configured_api_url()
    if url is not None:
        _require_health(url)
        yield url
        return
    with _running_server(state_dir, log, meanwhile) as server, _client_of(server):
        began = datetime.now(UTC)
        try:
            yield server.url
        finally:
            _flush_client()
            _await_records(server, began)


def configured_api_url() -> str | None:
    """Return the Prefect API that environment, project file or profile name, or None."""
    # Importing prefect in a terminal sends usage data unless this is set before.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


def health_problem(url: str, timeout_s: float = HEALTH_TIMEOUT_S) -> str | None:
    """Return None when the Prefect API at `url` answers within `timeout_s`, else what is wrong."""
    from prefect.client.orchestration import get_client
    from prefect.settings import temporary_settings

    # The client knows the credentials of the profile, and it is the one the flow will use.
    quick = {"api.url": url, "client.max_retries": 0, "api.request_timeout": timeout_s}
    with temporary_settings(quick), get_client(sync_client=True, httpx_settings={"timeout": timeout_s}) as client:
        try:
            # Unlike the health check, this needs the rights that a run needs.
            client.api_version()
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            return REFUSED if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) else f"HTTP status {status}"
        except (httpx.HTTPError, RuntimeError, ValueError) as error:
            return str(error) or type(error).__name__
    return None


def _require_health(url: str) -> None:
    problem = health_problem(url)
    if problem == REFUSED:
        raise ServiceUnavailable(f"The configured Prefect API {without_credentials(url)} {REFUSED}")
    if problem is not None:
        raise ServiceUnavailable(
            f"The configured Prefect API {without_credentials(url)} does not answer ({problem}): start that server, "
            "correct PREFECT_API_URL, or remove it (`prefect config unset PREFECT_API_URL`) to use a local server."
        )


def without_credentials(url: str) -> str:
    """Return `url` without user name, password and query, for messages."""
    parts = urlsplit(url)
    if not parts.netloc:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


@dataclass(frozen=True, slots=True)
class _Server:
    """A local server process, leader of its own process group."""

    process: subprocess.Popen[bytes]
    url: str
    home: Path
    log_file: Path
    #: Made at the first start, in `home`.
    login: Login
    #: Size of the log when this server started, bytes.
    log_start: int

    def wait_until_healthy(self, timeout_s: float) -> None:
        """Return once the server answers. Raises `_PortTaken` or `ServiceUnavailable`."""
        deadline = time.monotonic() + timeout_s
        with httpx.Client(timeout=2.0, trust_env=False) as client:  # a proxy has no business on loopback
            while time.monotonic() < deadline:
                if self.process.poll() is not None:
                    raise self._ended()
                with contextlib.suppress(httpx.HTTPError):
                    if client.get(f"{self.url}/health").is_success and self.process.poll() is None:
                        return
                time.sleep(_POLL_S)
        raise ServiceUnavailable(
            f"The local Prefect server did not answer within {timeout_s:.0f} s{self._last_words()}"
        )

    def _ended(self) -> Exception:
        tail = self._last_words()
        if "already in use" in tail:
            return _PortTaken()
        # On a full disk the log is empty, too.
        if _NO_ROOM.search(tail) or shutil.disk_usage(self.home).free < _LEAST_ROOM_BYTES:
            return DiskFull(f"No room for the local Prefect server in {self.home}: free some space, then try again.")
        status, advice = self.process.returncode, ""
        if _BROKEN_DATABASE.search(tail):
            advice = f"; its database is broken: move {self.home} away to start with an empty history"
        return ServiceUnavailable(f"The local Prefect server ended with status {status} while starting{advice}{tail}")

    def _last_words(self) -> str:
        with self.log_file.open("rb") as stream:
            stream.seek(self.log_start)
            lines = stream.read().decode(errors="replace").strip().splitlines()
        tail = "\n".join(lines[-_TAIL_LINES:])
        return f". See {self.log_file}" + (f"; its last lines:\n{tail}" if tail else " (empty).")

    def stop(self) -> None:
        """End the process group: a polite signal, a bounded wait, then SIGKILL; the process is reaped."""
        try:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_S)
        finally:
            self._signal(signal.SIGKILL)
            self.process.wait(STOP_TIMEOUT_S)
            if self.process.stdin is not None:
                self.process.stdin.close()

    def _signal(self, number: signal.Signals) -> None:
        # The group may have ended already; on macOS a group of zombies answers with a permission error.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


@contextlib.contextmanager
def _running_server(state_dir: Path, log: Log | None, meanwhile: Callable[[], None] | None) -> Iterator[_Server]:
    """Start a server, retrying when its port is taken, and stop it at the end."""
    home, log_dir = state_dir.resolve() / "prefect", state_dir.resolve() / "logs"
    private_state(state_dir)
    _make_folders(home, log_dir)
    for _ in range(_ATTEMPTS):
        with contextlib.ExitStack() as stack:
            with _only_starter(home):
                first = _discard_unfinished(home)
                server = stack.enter_context(_spawned(home, log_dir))
                try:
                    _come_up(server, first, log, meanwhile)
                except _PortTaken:
                    continue
                (home / _READY).touch()
            yield server
            return
    raise ServiceUnavailable(
        f"The local Prefect server found no free port in {_ATTEMPTS} attempts: try again, or start one with "
        "`prefect server start` and set PREFECT_API_URL."
    )


def _come_up(server: _Server, first: bool, log: Log | None, meanwhile: Callable[[], None] | None) -> None:
    """Wait until the server answers."""
    began = time.monotonic()
    _say(log, "Starting a local Prefect server" + (" (longer the first time)." if first else "."))
    if meanwhile is not None:
        meanwhile()
    server.wait_until_healthy(FIRST_START_TIMEOUT_S if first else START_TIMEOUT_S)
    _say(log, f"Prefect server at {server.url} after {time.monotonic() - began:.1f} s.")


def _make_folders(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NotWritable(f"{folder} cannot be made ({error.strerror}): choose another state folder.") from error


@contextlib.contextmanager
def _only_starter(home: Path) -> Iterator[None]:
    """Let one process at a time start a server: two must not create the same database at once."""
    lock = FileLock(home / "start.lock")
    try:
        lock.acquire(timeout=FIRST_START_TIMEOUT_S)
    except Timeout as error:
        raise ServiceUnavailable(
            f"Another process has held {lock.lock_file} for {FIRST_START_TIMEOUT_S:.0f} s: stop it, then try again."
        ) from error
    except OSError as error:
        raise NotWritable(f"{home} cannot be written ({error.strerror}): choose another state folder.") from error
    try:
        yield
    finally:
        lock.release()


def _discard_unfinished(home: Path) -> bool:
    """Remove a database whose creation was interrupted; return whether this is a first start."""
    if (home / _READY).exists() and (home / _DATABASE).exists():
        return False
    for left_over in home.glob(f"{_DATABASE}*"):
        left_over.unlink()
    return True


@contextlib.contextmanager
def _spawned(home: Path, log_dir: Path) -> Iterator[_Server]:
    """Run a server process on a free port; it has ended when the context ends."""
    port, log_file = _free_port(), log_dir / "prefect-server.log"
    if log_file.exists() and log_file.stat().st_size > _LOG_LIMIT_BYTES:
        log_file.replace(log_file.with_suffix(".log.1"))
    login = ensure_login(home)
    with log_file.open("ab") as record:
        process = subprocess.Popen(
            # -P: never a package `flows` of the folder it is started in.
            [sys.executable, "-P", "-m", "flows.services.prefect_app", "--port", str(port), "--end-with-parent"],
            cwd=home,  # Prefect reads settings from project files in the working directory
            env=_environment(home, login),
            stdin=subprocess.PIPE,  # closes when this process ends, however it ends
            stdout=record,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal must not reach the server before the flow has reported
        )
        server = _Server(process, f"http://127.0.0.1:{port}/api", home, log_file, login, record.tell())
    try:
        yield server
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(home: Path, login: Login) -> dict[str, str]:
    """Return the environment of the server: that of the user without Prefect settings, then ours."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    ours = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / _DATABASE}",
        "PREFECT_SERVER_API_AUTH_STRING": login.auth_string,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_CLI_COLORS": "false",
        "DO_NOT_TRACK": "1",
    }
    return inherited | _LEAN | ours


@contextlib.contextmanager
def _client_of(server: _Server) -> Iterator[None]:
    """Point the Prefect client of this context at `server`."""
    from prefect.settings import temporary_settings

    ours = {
        "home": server.home,
        "api.url": server.url,
        "api.key": None,
        "api.auth_string": server.login.auth_string,
        "results.local_storage_path": server.home / "storage",
        "server.ephemeral.enabled": False,
        "server.analytics_enabled": False,
    }
    with temporary_settings(ours):
        yield


def _flush_client() -> None:
    """Send the logs and events that the client still holds, so that none is tried after the server has gone."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=FLUSH_TIMEOUT_S)


def _await_records(server: _Server, began: datetime) -> None:
    """Wait, bounded, until the server has written how the task runs since `began` ended: it does so from a queue."""
    open_states = {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}, "start_time": {"after_": began.isoformat()}}
    deadline = time.monotonic() + FLUSH_TIMEOUT_S
    auth = (server.login.user, server.login.password)
    with contextlib.suppress(httpx.HTTPError), httpx.Client(timeout=2.0, trust_env=False, auth=auth) as client:
        while time.monotonic() < deadline:
            if client.post(f"{server.url}/task_runs/count", json={"task_runs": open_states}).json() == 0:
                return
            time.sleep(_POLL_S)


def _say(log: Log | None, line: str) -> None:
    if log is not None:
        log(line)
