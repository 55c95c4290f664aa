"""A local Prefect server for as long as a command runs."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx

from flows.progress import report_progress
from flows.services.prefect_client import FLUSH_TIMEOUT_S, client_of, configured_api_url, flush_client, require_health
from flows.services.process import POLL_S, START_TIMEOUT_S, Process
from flows.services.state import Login, ensure_login, locked
from stac.io.files import private_state, writing

_DATABASE = "prefect.db"
#: Exists once the database was complete.
_READY = "database.ready"

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


@contextlib.contextmanager
def prefect_api(state_dir: Path) -> Iterator[str]:
    """Yield the URL of a Prefect API that answers, e.g. `http://127.0.0.1:4200/api`.

    Where `PREFECT_API_URL` is configured (environment or profile), that API is checked and used as it is. Otherwise a
    server is started with its database in `state_dir/prefect` and its log in `state_dir/logs`; flows called in this
    context report to it, and it is stopped at the end, also after an error or Ctrl-C. Call from synchronous code.

    Args:
        state_dir: folder for the database and the log; created when missing.

    Raises:
        ServiceUnavailable: the API does not answer in time, refuses the credentials, or the server ends as it starts.
        DiskFull: the server's database does not fit.
        NotWritable: `state_dir` cannot be written.
    """
    url = configured_api_url()
    if url is not None:
        require_health(url)
        yield url
        return
    home = state_dir.resolve() / "prefect"
    with _running_server(state_dir, home) as (url, login), client_of(url, home, login.auth_string):
        began = datetime.now(UTC)
        try:
            yield url
        finally:
            flush_client()
            _await_records(url, login, began)


@contextlib.contextmanager
def _running_server(state_dir: Path, home: Path) -> Iterator[tuple[str, Login]]:
    """Start a server on a free port, and stop it at the end; yields its address and login."""
    log_file = state_dir.resolve() / "logs" / "prefect-server.log"
    private_state(state_dir)
    for folder in (home, log_file.parent):
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        # Two must not create the same database at once.
        with locked(home / "start.lock", START_TIMEOUT_S), socket.socket() as listener:
            first, began = _discard_unfinished(home), time.monotonic()
            report_progress("Starting a local Prefect server" + (" (longer the first time)." if first else "."))
            login = ensure_login(home)
            listener.bind(("127.0.0.1", 0))
            url = "http://{}:{}/api".format(*listener.getsockname())
            process = Process.start(
                "local Prefect server",
                ["flows.services.prefect_app", "--socket", str(listener.fileno())],
                home,
                log_file,
                environment=server_environment(home, login) | _LEAN,
                mark=f"{home} of {os.getpid()}",
                listener=listener,
            )
            stack.callback(process.stop)
            listener.close()
            process.wait_until_it_answers(f"{url}/health")
            (home / _READY).touch()
            report_progress(f"Prefect server at {url} after {time.monotonic() - began:.1f} s.")
        yield url, login


def _discard_unfinished(home: Path) -> bool:
    """Remove a database whose creation was interrupted; return whether this is a first start."""
    if (home / _READY).exists() and (home / _DATABASE).exists():
        return False
    for left_over in home.glob(f"{_DATABASE}*"):
        left_over.unlink()
    return True


def server_environment(home: Path, login: Login) -> dict[str, str]:
    """Return the environment of a server with its database in `home`: that of the user without servers, then ours."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "MLFLOW_"))}
    return inherited | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / _DATABASE}",
        "PREFECT_SERVER_API_AUTH_STRING": login.auth_string,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_CLI_COLORS": "false",
        "DO_NOT_TRACK": "1",
    }


def _await_records(url: str, login: Login, began: datetime) -> None:
    """Wait, bounded, until the server has written how the task runs since `began` ended: it does so from a queue."""
    open_states = {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}, "start_time": {"after_": began.isoformat()}}
    deadline, auth = time.monotonic() + FLUSH_TIMEOUT_S, (login.user, login.password)
    with contextlib.suppress(httpx.HTTPError), httpx.Client(timeout=2.0, trust_env=False, auth=auth) as client:
        while time.monotonic() < deadline:
            if client.post(f"{url}/task_runs/count", json={"task_runs": open_states}).json() == 0:
                return
            time.sleep(POLL_S)
