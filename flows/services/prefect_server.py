"""Prefect's API as this process asks it, and a local server where none is configured."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from flows.errors import ServiceUnavailable
from flows.progress import report_progress
from flows.services.process import HEALTH_TIMEOUT_S, POLL_S, START_TIMEOUT_S, Process
from flows.services.state import Login, ensure_login, locked
from stac.io.files import private_state, writing
from stac.io.secrets import without_secret

#: Longest that a server may be away, seconds.
_OUTAGE_S = 120.0
#: Seconds to send what the client still holds.
FLUSH_TIMEOUT_S = 5.0
#: What is wrong where a server wants other credentials.
REFUSED = "refuses the credentials: set PREFECT_API_AUTH_STRING (or PREFECT_API_KEY) to those of the server."
_DATABASE = "prefect.db"
#: Exists once the database was complete.
_READY = "database.ready"


def configured_api_url() -> str | None:
    """Return the Prefect API that environment, project file or profile name, or None."""
    # Importing prefect in a terminal sends usage data unless this is set before.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


def health_problem(url: str) -> str | None:
    """Return None when the Prefect API at `url` answers in time, else what is wrong."""
    from prefect.client.orchestration import get_client
    from prefect.settings import temporary_settings

    # The client knows the credentials of the profile, and it is the one the flow will use.
    quick = {"api.url": url, "client.max_retries": 0, "api.request_timeout": HEALTH_TIMEOUT_S}
    with (
        temporary_settings(quick),
        get_client(sync_client=True, httpx_settings={"timeout": HEALTH_TIMEOUT_S}) as client,
    ):
        try:
            # Unlike the health check, this needs the rights that a run needs.
            client.api_version()
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            return REFUSED if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) else f"HTTP status {status}"
        except (httpx.HTTPError, RuntimeError, ValueError) as error:
            return str(error) or type(error).__name__
    return None


def require_health(url: str) -> None:
    """Raise `ServiceUnavailable` unless the configured Prefect API answers, and takes the credentials."""
    problem = health_problem(url)
    if problem == REFUSED:
        raise ServiceUnavailable(f"The configured Prefect API {without_secret(url)} {REFUSED}")
    if problem is not None:
        raise ServiceUnavailable(
            f"The configured Prefect API {without_secret(url)} does not answer ({problem}): start that server, "
            "correct PREFECT_API_URL, or remove it (`prefect config unset PREFECT_API_URL`) to use a local server."
        )


@contextlib.contextmanager
def client_of(url: str, home: Path, auth_string: str) -> Iterator[None]:
    """Let flows called in this context report to the API at `url`, and keep what they write in `home`."""
    from prefect.settings import temporary_settings

    ours = {
        "home": home,
        "api.url": url,
        "api.key": None,
        "api.auth_string": auth_string,
        "results.local_storage_path": home / "storage",
        "server.ephemeral.enabled": False,
        "server.analytics_enabled": False,
    }
    with temporary_settings(ours):
        yield


def flush_client() -> None:
    """Send the logs and events that the client still holds, so that none is tried after the server has gone."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=FLUSH_TIMEOUT_S)


def through_restart() -> Retrying:
    """Return what calls a function again while no connection to the server can be made; then its error is raised.

    Prefect's own client asks again only when it has reached the server before, and each task makes new clients.
    """
    return Retrying(
        retry=retry_if_exception_type(httpx.TransportError),
        wait=wait_random_exponential(multiplier=0.5, max=10),
        stop=stop_after_delay(_OUTAGE_S),
        reraise=True,
    )


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
