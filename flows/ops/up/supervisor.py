"""The services of `unveil up`, and their supervisor: starts them, watches them, starts them again, ends them all.

A supervisor holds the lock of its folder, which the system gives back when it ends, however it ends: so commands know
whether one is at work.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum, unique
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from flows.errors import AlreadyRunning, InvalidSettings, ServiceUnavailable
from flows.models.mlflow_access import follow_moved_folder
from flows.ops.up.setup import begin_catalog
from flows.services.keeper import sweep
from flows.services.prefect_app import loopback_hosts
from flows.services.prefect_server import server_environment
from flows.services.process import PYTHON, START_TIMEOUT_S, Process, free_port, problem_at
from flows.services.state import ensure_login, read_record, write_record
from stac.io.files import folder_problem, private_state, writing

Log = Callable[[str], None]

POOL = "unveil"
#: Heartbeats of runs, seconds: the least that Prefect allows; a run is dead after three of them and a bit.
HEARTBEAT_S, SILENCE_S = 30, 100
_POLL_S = 0.3
#: A first start deploys and makes databases; a stop waits for runs to end politely; another command looks at the lock.
_DETACH_S, _STOP_S, _LOOK_S = 900.0, 60.0, 1.0
#: A service that ended is started again so often within so many seconds.
RESTARTS, RESTART_WINDOW_S = 5, 600.0
_PREFECT_YAML = Path(__file__).parents[3] / "prefect.yaml"


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


def up(place: Place, on_ready: Callable[[Place], None], log: Log) -> None:
    """Start everything, call `on_ready` when all of it answers, and watch until SIGTERM or Ctrl-C.

    Raises:
        AlreadyRunning: another supervisor is at work on this folder.
        NotWritable: the folder cannot be written.
        ServiceUnavailable: a port is taken, or a service does not answer or ends again and again.
    """
    begin_catalog(place.out)
    private_state(place.state)
    for folder in (place.folder / "prefect", place.state / "logs"):
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    supervisor = _Supervisor(place, log)
    with _only_supervisor(place), _interrupted_by_signals():
        try:
            supervisor.start()
            on_ready(place)
            supervisor.watch()
        finally:
            supervisor.end()


@dataclass(slots=True)
class _Supervisor:
    """The services of a place, each under its keeper."""

    place: Place
    log: Log
    running: dict[Service, Process] = field(default_factory=dict)
    #: When each was started again, monotonic seconds.
    restarts: dict[Service, list[float]] = field(default_factory=dict)

    def start(self) -> None:
        """Start the services in order; the worker last, when there is something to work on."""
        self._note(supervisor=os.getpid(), members={})
        sweep(str(self.place.folder), 0)  # what a killed supervisor could not
        require_free_ports(self.place)
        self._note(ports=dict(self.place.ports))
        follow_moved_folder(self.place.state / "mlflow.db")
        first = [Service.PREFECT, Service.MLFLOW, Service.CATALOG]
        for service in first:
            self._start(service)
        for service in first:
            self.log(f"waiting for {service}")
            self._await(service)
        self._set_up()
        self._start(Service.WORKER)
        self._await(Service.WORKER)
        self._note_members()

    def watch(self) -> None:
        """Start again what ends, until a signal comes.

        Raises:
            ServiceUnavailable: a service ended too often.
        """
        while True:
            time.sleep(_POLL_S)
            for service, process in self.running.items():
                status = process.keeper.poll()
                if status is None:
                    continue
                process.kill()
                now = time.monotonic()
                recent = [at for at in self.restarts.get(service, []) if now - at < RESTART_WINDOW_S]
                if len(recent) == RESTARTS:
                    raise ServiceUnavailable(
                        f"The {service} service ended {RESTARTS + 1} times within {RESTART_WINDOW_S / 60:.0f} minutes, "
                        f"last with status {status}; everything was stopped. See {process.log_file}."
                    )
                self.restarts[service] = [*recent, now]
                self.log(f"{service} ended with status {status}; started again ({len(recent) + 1} of {RESTARTS})")
                self._start(service)
                self._note_members()

    def end(self) -> None:
        """End all services and every run they started, and say so in the record; a second Ctrl-C changes nothing."""
        kept = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            sweep(str(self.place.folder))
            for process in self.running.values():
                process.kill()
            self._note(supervisor=None, members={})
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    def _start(self, service: Service) -> None:
        self.running[service] = self._process(service, command_of(self.place, service))

    def _process(self, name: str, command: Sequence[str]) -> Process:
        folder = self.place.folder
        log_file, environment = self.place.log_of(name), environment_of(self.place)
        return Process.start(f"{name} service", command, folder, log_file, environment=environment, mark=str(folder))

    def _await(self, service: Service) -> None:
        self.running[service].wait_until_it_answers(self.place.health(service))

    def _set_up(self) -> None:
        """Deploy what changed or is missing: an operator's edits at the server stay until prefect.yaml changes."""
        if not _PREFECT_YAML.is_file():
            raise InvalidSettings(f"There is no {_PREFECT_YAML}: `unveil up` needs a checkout of the repository.")
        # Deployments name the folder that they run in, so a checkout that was moved is deployed again.
        digest = hashlib.sha256(str(_PREFECT_YAML.parent).encode() + _PREFECT_YAML.read_bytes()).hexdigest()
        changed = digest != read_record(self.place.folder).deployed
        self.log("deploying prefect.yaml" if changed else "checking work pool, deployments and registry")
        arguments = [str(_PREFECT_YAML), *([] if changed else ["--if-missing"])]
        process = self._process("setup", ["flows.ops.up.setup", *arguments])
        if process.keeper.wait(START_TIMEOUT_S) != 0:
            raise ServiceUnavailable(f"Setting up the Prefect server failed{process.log_tail()}")
        self._note(deployed=digest)

    def _note(self, **changes: object) -> None:
        write_record(self.place.folder, replace(read_record(self.place.folder), **changes))  # type: ignore[arg-type]

    def _note_members(self) -> None:
        self._note(members={str(service): process.keeper.pid for service, process in self.running.items()})


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Make SIGTERM what Ctrl-C is; call from the main thread only."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def require_free_ports(place: Place) -> None:
    """Raise `ServiceUnavailable` when the port of a service is taken."""
    for service in Service:
        port = place.ports[service]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise ServiceUnavailable(
                    f"Port {port} of the {service} service cannot be used ({error.strerror}): stop the program that "
                    f"holds it, or choose another with --{service}-port (0 takes a free one)."
                ) from error


@contextlib.contextmanager
def _only_supervisor(place: Place, timeout_s: float = _LOOK_S) -> Iterator[None]:
    """Hold the folder.

    Raises:
        AlreadyRunning: a supervisor is at work on it, after `timeout_s` still.
    """
    lock = FileLock(place.folder / "up.lock")
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout as error:
        raise AlreadyRunning(
            f"Unveil is up in {place.out} already: `unveil up --out {place.out} --status` shows where, "
            f"`unveil down --out {place.out}` stops it."
        ) from error
    try:
        yield
    finally:
        lock.release()


def require_down(place: Place, timeout_s: float = 0) -> None:
    """Return when no supervisor is at work on this folder.

    Raises:
        AlreadyRunning: one is, after `timeout_s` still.
    """
    if place.folder.is_dir():
        with _only_supervisor(place, timeout_s):
            pass


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """How one service is."""

    service: str
    address: str
    healthy: bool
    #: Number of its process, None when it does not run.
    pid: int | None
    #: What is wrong; empty when nothing is.
    problem: str


def health_of(place: Place) -> tuple[ServiceHealth, ...]:
    """Return how each service of a place is, now."""
    try:
        require_down(place)
        members = {}
    except AlreadyRunning:
        members = dict(read_record(place.folder).members)
    found = []
    for service in Service:
        pid = members.get(service)
        # Without a process of ours, another program may answer there.
        problem = "not running" if pid is None else problem_at(place.health(service))
        found.append(ServiceHealth(str(service), place.address(service), problem is None, pid, problem or ""))
    return tuple(found)


def down(place: Place) -> bool:
    """Stop a working system; return False when none was running.

    Raises:
        ServiceUnavailable: it does not stop in time.
    """
    try:
        require_down(place)
        sweep(str(place.folder))
        return False
    except AlreadyRunning:
        supervisor = read_record(place.folder).supervisor
    if supervisor is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor, signal.SIGTERM)
    try:
        require_down(place, _STOP_S)
    except AlreadyRunning as error:
        raise ServiceUnavailable(
            f"Process {supervisor} did not stop within {_STOP_S:.0f} s: `kill -9 {supervisor}` ends it and its "
            "services."
        ) from error
    return True


def detach(arguments: Sequence[str], state: Path) -> None:
    """Start `unveil ARGUMENTS` in the background and return when all services answer.

    Raises:
        ServiceUnavailable: it ended while starting, or takes too long.
    """
    folder, log_file = state / "up", state / "logs" / "up.log"
    private_state(state)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        begin = log.tell()
        process = subprocess.Popen(
            [*PYTHON, "-m", "flows.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + _DETACH_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            lines, _, sentence = log_file.read_bytes()[begin:].decode(errors="replace").strip().partition("unveil: ")
            raise ServiceUnavailable(sentence or lines or f"It ended with status {process.returncode}")
        record = read_record(folder)
        if record.members and record.supervisor == process.pid:
            return
        time.sleep(_POLL_S)
    process.terminate()
    raise ServiceUnavailable(f"Not all services answered within {_DETACH_S:.0f} s; see {log_file}.")
