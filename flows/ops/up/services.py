"""What `unveil up` runs: where it lives, and how each service is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from pathlib import Path

from flows.errors import InvalidSettings
from flows.services.prefect_app import loopback_hosts
from flows.services.prefect_server import server_environment
from flows.services.process import free_port
from flows.services.state import ensure_login, read_record
from stac.io.files import folder_problem

POOL = "unveil"
#: Heartbeats of runs, seconds: the least that Prefect allows; a run is dead after three of them and a bit.
HEARTBEAT_S, SILENCE_S = 30, 100


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
        """Folder of our own record and of Prefect's database; all processes are marked with it."""
        return self.state / "up"

    def address(self, service: Service) -> str:
        """Return where a service answers; a worker answers only at its health check."""
        return self.health(service) if service is Service.WORKER else f"http://127.0.0.1:{self.ports[service]}"

    def health(self, service: Service) -> str:
        """Return the address of a service's health check."""
        return f"http://127.0.0.1:{self.ports[service]}{_HEALTH[service]}"

    def log_of(self, service: str) -> Path:
        """Return the log of a service."""
        return self.state / "logs" / f"up-{service}.log"


def place_for(out: Path, state: Path, ports: Mapping[Service, int | None], *, browser: bool) -> Place:
    """Return the place of a working system: given ports, else those of the last start, else the default ones.

    A port given as 0 becomes a free one, and is kept.

    Raises:
        InvalidSettings: a folder cannot be named by an address.
    """
    for folder in (out, state):
        if problem := folder_problem(folder):
            raise InvalidSettings(f"{problem}.")
    known = {str(service): port for service, port in DEFAULT_PORTS.items()} | dict(read_record(state / "up").ports)
    given = {str(service): port or free_port() for service, port in ports.items() if port is not None}
    return Place(out=out.resolve(), state=state.resolve(), ports=known | given, browser=browser)


def command_of(place: Place, service: Service) -> list[str]:
    """Return the module and the arguments of a service."""
    port = place.ports[service]
    match service:
        case Service.PREFECT:
            return ["flows.services.prefect_app", f"--port={port}"]
        case Service.MLFLOW:
            listen = ["--host=127.0.0.1", f"--port={port}", "--workers=1"]
            # Artefacts are files beside the database, as commands without a server keep them: both find what the
            # other made.
            store = ["--no-serve-artifacts", f"--default-artifact-root={(place.state / 'mlartifacts').as_uri()}"]
            return ["flows.services.mlflow_app", *listen, f"--allowed-hosts={','.join(loopback_hosts(port))}", *store]
        case Service.CATALOG:
            browser = "--browser" if place.browser else "--no-browser"
            return ["flows.cli", "serve", f"--out={place.out}", f"--port={port}", browser]
        case Service.WORKER:
            start = ["prefect", "worker", "start", f"--pool={POOL}", "--name=unveil-up"]
            return [*start, "--install-policy=never", "--with-healthcheck"]


def environment_of(place: Place) -> dict[str, str]:
    """Return the environment of all services: that of the user without other servers, then ours.

    So a flow run finds this Prefect server, this registry and this catalog, and has the login of both.
    """
    login = ensure_login(place.folder)
    return server_environment(place.folder / "prefect", login) | {
        "PREFECT_API_URL": f"{place.address(Service.PREFECT)}/api",
        # Leases in memory, the default, would leave their slots taken for ever when the server is restarted.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "unveil",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
        "PREFECT_WORKER_WEBSERVER_PORT": str(place.ports[Service.WORKER]),
        "MLFLOW_AUTH_ADMIN_USERNAME": login.user,
        "MLFLOW_AUTH_ADMIN_PASSWORD": login.password,
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{place.state / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "UNVEIL_OUT": str(place.out),
        "UNVEIL_STATE_DIR": str(place.state),
        "UNVEIL_MLFLOW_URI": place.address(Service.MLFLOW),
        **login.client_environment(),
    }
