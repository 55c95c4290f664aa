"""The services of `unveil up`: how each is started, where it answers, and what it finds in its environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from pathlib import Path

import httpx

from flows.services.login import Login, ensure_login
from flows.services.prefect_app import loopback_hosts

POOL = "unveil"
#: Python that never takes a package from the folder it is started in, whatever lies there.
PYTHON = (sys.executable, "-P")
#: Heartbeats of runs, seconds: the least that Prefect allows; a run is dead after three of them and a bit.
HEARTBEAT_S, SILENCE_S = 30, 100
_HEALTH_TIMEOUT_S = 3.0


@unique
class Service(StrEnum):
    """What runs, in the order of starting."""

    PREFECT = "prefect"
    MLFLOW = "mlflow"
    CATALOG = "catalog"
    WORKER = "worker"


#: Ports of a first start.
DEFAULT_PORTS = {Service.PREFECT: 4200, Service.MLFLOW: 5000, Service.CATALOG: 8080, Service.WORKER: 4280}
_HEALTH = {
    Service.PREFECT: "/api/health",
    Service.MLFLOW: "/health",
    Service.CATALOG: "/healthz",
    Service.WORKER: "/health",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a working system lives; all paths are absolute."""

    #: Folder of the catalog.
    out: Path
    #: Folder of ledger, registry, and of all state of the services.
    state: Path
    ports: Mapping[str, int]
    #: A built STAC Browser is served, too.
    browser: bool

    @property
    def folder(self) -> Path:
        """Folder of our own record and of Prefect's database."""
        return self.state / "up"

    def address(self, service: Service) -> str:
        """Return where a service answers; a worker answers only at its health check."""
        path = _HEALTH[service] if service is Service.WORKER else ""
        return f"http://127.0.0.1:{self.ports[service]}{path}"

    def health_problem(self, service: Service) -> str | None:
        """Return None where the service answers, else what is wrong."""
        url = f"http://127.0.0.1:{self.ports[service]}{_HEALTH[service]}"
        try:
            answer = httpx.get(url, timeout=_HEALTH_TIMEOUT_S, trust_env=False)
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__
        return None if answer.is_success else f"HTTP status {answer.status_code}"

    def log_of(self, service: str) -> Path:
        """Return the log of a service."""
        return self.state / "logs" / f"up-{service}.log"


def command_of(place: Place, service: Service) -> list[str]:
    """Return the command line of a service."""
    return [*PYTHON, "-m", *_ARGUMENTS[service](place)]


def environment_of(place: Place, service: str) -> dict[str, str]:
    """Return the environment of a service: that of the user without other servers, then ours.

    So a flow run finds this Prefect server, this registry and this catalog, and has the login of both.
    """
    login = ensure_login(place.folder)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    home = place.folder / "prefect"
    return inherited | {
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"{place.address(Service.PREFECT)}/api",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # Leases in memory, the default, would leave their slots taken for ever when the server is restarted.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_CLI_COLORS": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "unveil",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
        "PREFECT_WORKER_WEBSERVER_PORT": str(place.ports[Service.WORKER]),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "UNVEIL_OUT": str(place.out),
        "UNVEIL_STATE_DIR": str(place.state),
        "UNVEIL_MLFLOW_URI": place.address(Service.MLFLOW),
        **login.client_environment(),
        **_SECRETS.get(service, _nothing)(place, login),
    }


def _prefect(place: Place) -> list[str]:
    return ["flows.services.prefect_app", "--port", str(place.ports[Service.PREFECT])]


def _mlflow(place: Place) -> list[str]:
    port = place.ports[Service.MLFLOW]
    hosts = ",".join(loopback_hosts(port))
    listen = ["--host=127.0.0.1", f"--port={port}", "--workers=1", f"--allowed-hosts={hosts}"]
    # Artefacts are files beside the database, as commands without a server keep them: both find what the other made.
    store = ["--no-serve-artifacts", f"--default-artifact-root={(place.state / 'mlartifacts').as_uri()}"]
    return ["flows.services.mlflow_app", *listen, *store]


def _catalog(place: Place) -> list[str]:
    browser = "--browser" if place.browser else "--no-browser"
    return ["flows.cli", "serve", "--out", str(place.out), "--port", str(place.ports[Service.CATALOG]), browser]


def _worker(_: Place) -> list[str]:
    start = ["prefect", "worker", "start", "--pool", POOL, "--name", "unveil-up"]
    return [*start, "--install-policy", "never", "--with-healthcheck"]


def _nothing(_: Place, __: Login) -> dict[str, str]:
    return {}


def _prefect_secrets(_: Place, login: Login) -> dict[str, str]:
    return {"PREFECT_SERVER_API_AUTH_STRING": login.auth_string}


def _mlflow_secrets(place: Place, login: Login) -> dict[str, str]:
    return {
        "MLFLOW_AUTH_ADMIN_USERNAME": login.user,
        "MLFLOW_AUTH_ADMIN_PASSWORD": login.password,
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{place.state / 'mlflow.db'}",
    }


_SECRETS: Mapping[str, Callable[[Place, Login], dict[str, str]]] = {
    Service.PREFECT: _prefect_secrets,
    Service.MLFLOW: _mlflow_secrets,
}
_ARGUMENTS = {
    Service.PREFECT: _prefect,
    Service.MLFLOW: _mlflow,
    Service.CATALOG: _catalog,
    Service.WORKER: _worker,
}
