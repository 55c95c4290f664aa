"""The supervisor of `unveil up`: starts the services, watches them, starts them again, ends them all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from flows.errors import AlreadyRunning, InvalidSettings, ServiceUnavailable
from flows.models.mlflow_access import follow_moved_folder
from flows.ops.up.control import ProcessId, Record, read_record, write_record
from flows.ops.up.keeper import sweep
from flows.ops.up.members import DEFAULT_PORTS, PYTHON, Place, Service, command_of, environment_of
from flows.ops.up.setup import begin_catalog
from flows.settings.run_settings import folder_problem
from stac.errors import NotWritable
from stac.io.files import private_state, public_folder

Log = Callable[[str], None]

#: Seconds for a service to answer; a first start makes databases.
_READY_S = 300.0
_POLL_S = 0.3
#: A service that ended is started again so often within so many seconds.
RESTARTS, RESTART_WINDOW_S = 5, 600.0
_LOG_LIMIT_BYTES = 5_000_000
_PREFECT_YAML = Path(__file__).parents[3] / "prefect.yaml"


@dataclass(slots=True)
class Child:
    """A service under its keeper, leader of a process group."""

    service: str
    command: list[str]
    place: Place
    process: subprocess.Popen[bytes]
    #: When it was started again, monotonic seconds.
    restarts: list[float] = field(default_factory=list)

    def may_restart(self) -> bool:
        """Count a restart; False when there were too many of late."""
        now = time.monotonic()
        self.restarts = [*(at for at in self.restarts if now - at < RESTART_WINDOW_S), now]
        return len(self.restarts) <= RESTARTS

    def kill_rest(self) -> None:
        """End what is left of the group of a keeper that has ended."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


def up(place: Place, on_ready: Callable[[Place], None], log: Log) -> None:
    """Start everything, call `on_ready` when all of it answers, and watch until SIGTERM or Ctrl-C.

    Args:
        place: folders and ports.
        on_ready: called once.
        log: receives one line per event.

    Raises:
        AlreadyRunning: another supervisor is at work on this folder.
        NotWritable: the folder cannot be written.
        ServiceUnavailable: a port is taken, or a service does not answer or ends again and again.
    """
    _make_folders(place)
    with _only_supervisor(place), _interrupted_by_signals():
        children: dict[str, Child] = {}
        try:
            sweep(str(place.folder), 0)  # what a killed supervisor could not
            require_free(place)
            _begin(place, children, log)
            on_ready(place)
            _watch(place, children, log)
        finally:
            _end(place, children)


def place_for(out: Path, state: Path, ports: Mapping[Service, int | None], *, browser: bool) -> Place:
    """Return the place of a working system: given ports, else those of the last start, else the default ones.

    A port given as 0 becomes a free one, and is kept.

    Raises:
        InvalidSettings: a folder cannot be named by an address.
    """
    for folder in (out, state):
        if problem := folder_problem(folder):
            raise InvalidSettings(f"{problem}.")
    known = read_record(state.resolve() / "up").ports
    chosen = {
        str(service): _port(ports.get(service), known.get(service, DEFAULT_PORTS[service])) for service in Service
    }
    return Place(out=out.resolve(), state=state.resolve(), ports=chosen, browser=browser)


def _port(given: int | None, otherwise: int) -> int:
    if given is None:
        return otherwise
    if given:
        return given
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free(place: Place) -> None:
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


def _make_folders(place: Place) -> None:
    try:
        public_folder(place.out)
        private_state(place.state)
        for folder in (place.folder / "prefect", place.state / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotWritable(f"{error.filename} cannot be made ({error.strerror}): choose another --out.") from error
    begin_catalog(place.out)


@contextlib.contextmanager
def _only_supervisor(place: Place) -> Iterator[None]:
    """Hold the folder; the system gives the lock back when this process ends, however it ends."""
    lock = FileLock(place.folder / "up.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise AlreadyRunning(_already(place)) from error
    try:
        yield
    finally:
        lock.release()


def require_down(place: Place) -> None:
    """Raise `AlreadyRunning` when a supervisor is at work on this folder."""
    if read_record(place.folder).running:
        raise AlreadyRunning(_already(place))


def _already(place: Place) -> str:
    return (
        f"Unveil is up in {place.out} already: `unveil up --out {place.out} --status` shows where, "
        f"`unveil down --out {place.out}` stops it."
    )


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


def _begin(place: Place, children: dict[str, Child], log: Log) -> None:
    """Start the services in order; the worker last, when there is something to work on."""
    record = replace(read_record(place.folder), ports=dict(place.ports), supervisor=ProcessId.of(os.getpid()))
    write_record(place.folder, replace(record, ready=False, members={}))
    follow_moved_folder(place.state / "mlflow.db")
    first = [Service.PREFECT, Service.MLFLOW, Service.CATALOG]
    for service in first:
        children[service] = _start(place, service, command_of(place, service))
    for service in first:
        log(f"waiting for {service}")
        _await(place, children[service])
    digest = _digest()
    log("deploying prefect.yaml" if digest != record.deployed else "checking work pool, deployments and registry")
    _set_up(place, changed=digest != record.deployed)
    children[Service.WORKER] = _start(place, Service.WORKER, command_of(place, Service.WORKER))
    _await(place, children[Service.WORKER])
    write_record(place.folder, replace(record, deployed=digest, ready=True, members=_members(children)))


def _start(place: Place, service: str, command: list[str]) -> Child:
    return Child(service, command, place, _spawn(place, service, command))


def _spawn(place: Place, service: str, command: list[str]) -> subprocess.Popen[bytes]:
    log_file = place.log_of(service)
    if log_file.exists() and log_file.stat().st_size > _LOG_LIMIT_BYTES:
        log_file.replace(log_file.with_suffix(".log.1"))
    with log_file.open("ab") as record:
        return subprocess.Popen(
            [*PYTHON, "-m", "flows.ops.up.keeper", str(place.folder), *command],
            cwd=place.folder,  # Prefect reads settings from project files in the working directory
            env=environment_of(place, service),
            stdin=subprocess.PIPE,  # closes when this process ends, however it ends
            stdout=record,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is for the supervisor
        )


def _await(place: Place, child: Child) -> None:
    deadline = time.monotonic() + _READY_S
    problem: str | None = "not asked"
    while time.monotonic() < deadline:
        if child.process.poll() is not None:
            raise ServiceUnavailable(
                f"The {child.service} service ended with status {child.process.returncode} while starting; "
                f"see {place.log_of(child.service)}."
            )
        problem = place.health_problem(Service(child.service))
        if problem is None:
            return
        time.sleep(_POLL_S)
    raise ServiceUnavailable(
        f"The {child.service} service did not answer within {_READY_S:.0f} s ({problem}); "
        f"see {place.log_of(child.service)}."
    )


def _digest() -> str:
    if not _PREFECT_YAML.is_file():
        raise InvalidSettings(f"There is no {_PREFECT_YAML}: `unveil up` needs a checkout of the repository.")
    # Deployments name the folder that they run in, so a checkout that was moved is deployed again.
    return hashlib.sha256(str(_PREFECT_YAML.parent).encode() + _PREFECT_YAML.read_bytes()).hexdigest()


def _set_up(place: Place, *, changed: bool) -> None:
    """Deploy what changed or is missing: what an operator has edited at the server stays until prefect.yaml changes."""
    arguments = [str(_PREFECT_YAML), *([] if changed else ["--if-missing"])]
    process = _spawn(place, "setup", [*PYTHON, "-m", "flows.ops.up.setup", *arguments])
    if process.wait(_READY_S) != 0:
        log_file = place.log_of("setup")
        last = (log_file.read_text("utf-8", errors="replace").strip().splitlines() or ["nothing was written"])[-1]
        raise ServiceUnavailable(f"Setting up the Prefect server failed: {last} See {log_file}.")


def _watch(place: Place, children: dict[str, Child], log: Log) -> None:
    """Start again what ends, until a signal comes.

    Raises:
        ServiceUnavailable: a service ended too often.
    """
    pause = threading.Event()
    while True:
        pause.wait(_POLL_S)
        for child in children.values():
            status = child.process.poll()
            if status is None:
                continue
            child.kill_rest()
            if not child.may_restart():
                raise ServiceUnavailable(
                    f"The {child.service} service ended {RESTARTS + 1} times within {RESTART_WINDOW_S / 60:.0f} "
                    f"minutes, last with status {status}; everything was stopped. See {place.log_of(child.service)}."
                )
            log(f"{child.service} ended with status {status}; started again ({len(child.restarts)} of {RESTARTS})")
            if child.process.stdin is not None:
                child.process.stdin.close()
            child.process = _spawn(place, child.service, child.command)
            write_record(place.folder, replace(read_record(place.folder), members=_members(children)))


def _members(children: Mapping[str, Child]) -> dict[str, ProcessId]:
    return {str(name): ProcessId.of(child.process.pid) for name, child in children.items()}


def _end(place: Place, children: Mapping[str, Child]) -> None:
    """End all services and every run they started, and say so in the record; a second Ctrl-C changes nothing."""
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        sweep(str(place.folder))
        for child in children.values():
            child.kill_rest()
            child.process.wait()
        record: Record = read_record(place.folder)
        if record.supervisor is not None and record.supervisor.pid == os.getpid():
            write_record(place.folder, replace(record, supervisor=None, ready=False, members={}))
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
