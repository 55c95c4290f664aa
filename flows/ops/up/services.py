"""What `unveil up` runs: where it lives, how each service is started, and what is remembered between starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum, unique
from pathlib import Path

from flows.errors import InvalidSettings
from flows.services.login import ensure_login
from flows.services.prefect_app import loopback_hosts
from flows.services.prefect_server import server_environment
from flows.services.process import free_port
from flows.settings.run_settings import folder_problem
from stac.io.files import write_json

POOL = "unveil"
#: Heartbeats of runs, seconds: the least that Prefect allows; a run is dead after three of them and a bit.
HEARTBEAT_S, SILENCE_S = 30, 100
_FILE = "up.json"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is remembered of a folder between starts; its supervisor keeps it up to date."""

    #: Port of each service, by name.
    ports: Mapping[str, int] = field(default_factory=dict)
    #: SHA-256 of the prefect.yaml that was deployed.
    deployed: str = ""
    #: Process of the last supervisor.
    supervisor: int | None = None
    #: Process of each service's keeper, by name; empty until all services answered.
    members: Mapping[str, int] = field(default_factory=dict)


def read_record(folder: Path) -> Record:
    """Return the record of a folder; an empty one where there is none.

    Raises:
        InvalidSettings: the file is not ours.
    """
    path = folder / _FILE
    try:
        return Record(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return Record()
    except (OSError, ValueError, TypeError) as error:
        raise InvalidSettings(
            f"{path} is not a record of `unveil up` ({type(error).__name__}): remove it to begin with default ports."
        ) from error


def write_record(folder: Path, record: Record) -> None:
    """Replace the record; a reader sees the old one or the new one.

    Raises:
        DiskFull, NotWritable: it cannot be written.
    """
    write_json(folder / _FILE, asdict(record))


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
