"""What `unveil up` runs: its record, status and stop."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from flows.errors import InvalidSettings, ServiceUnavailable
from flows.ledger.schema import started_at
from flows.ops.up.keeper import sweep
from flows.ops.up.members import PYTHON, Place, Service
from stac.io.files import private_state, write_json

_FILE = "up.json"


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, distinguished from a later one with the same number."""

    pid: int
    #: Boot of the machine and start in it: a clock that is set changes neither.
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Return the identity of a process that runs now.

        Raises:
            NoSuchProcess: it has ended.
        """
        return cls(pid, started_at(pid))

    @property
    def alive(self) -> bool:
        """It runs still."""
        try:
            return started_at(self.pid) == self.started and bool(
                psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The state of a folder between starts."""

    #: Port of each service, by name.
    ports: Mapping[str, int] = field(default_factory=dict)
    #: SHA-256 of the prefect.yaml that was deployed.
    deployed: str = ""
    supervisor: ProcessId | None = None
    #: All services answered once, since this start.
    ready: bool = False
    #: Keeper of each service, by name.
    members: Mapping[str, ProcessId] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        """A supervisor is at work."""
        return self.supervisor is not None and self.supervisor.alive


def read_record(folder: Path) -> Record:
    """Return the record of a folder; an empty one where there is none.

    Raises:
        InvalidSettings: the file is not ours.
    """
    path = folder / _FILE
    try:
        values = json.loads(path.read_text("utf-8"))
        supervisor = values.pop("supervisor")
        members = {name: ProcessId(**process) for name, process in values.pop("members").items()}
        return Record(**values, supervisor=supervisor and ProcessId(**supervisor), members=members)
    except FileNotFoundError:
        return Record()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidSettings(
            f"{path} is not a record of `unveil up` ({type(error).__name__}): remove it to begin with default ports."
        ) from error


def write_record(folder: Path, record: Record) -> None:
    """Replace the record; a reader sees the old one or the new one.

    Raises:
        DiskFull, NotWritable: it cannot be written.
    """
    write_json(folder / _FILE, asdict(record))


#: A first start deploys and makes databases; a stop waits for runs to end politely.
_DETACH_S, _STOP_S = 900.0, 60.0
_POLL_S = 0.3


@dataclass(frozen=True, slots=True)
class Standing:
    """How one service is."""

    service: str
    address: str
    healthy: bool
    #: Number of its process, None when it does not run.
    pid: int | None
    #: What is wrong; empty when nothing is.
    problem: str


def standing(place: Place) -> tuple[Standing, ...]:
    """Return how each service of a place is, now."""
    record = read_record(place.folder)
    return tuple(_standing(place, service, record.members.get(service)) for service in Service)


def _standing(place: Place, service: Service, keeper: ProcessId | None) -> Standing:
    runs = keeper is not None and keeper.alive
    # Without a process of ours, another program may answer there.
    problem = place.health_problem(service) if runs else "not running"
    pid = keeper.pid if keeper is not None and runs else None
    return Standing(str(service), place.address(service), problem is None, pid, problem or "")


def down(place: Place) -> bool:
    """Stop a working system; return False when none was running.

    Raises:
        ServiceUnavailable: it does not stop in time.
    """
    supervisor = read_record(place.folder).supervisor
    if supervisor is None or not supervisor.alive:
        sweep(str(place.folder))
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(supervisor.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while supervisor.alive:
        if time.monotonic() > deadline:
            raise ServiceUnavailable(
                f"Process {supervisor.pid} did not stop within {_STOP_S:.0f} s: `kill -9 {supervisor.pid}` ends it and "
                "its services."
            )
        time.sleep(_POLL_S)
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
            lines = log_file.read_bytes()[begin:].decode(errors="replace").strip().splitlines()
            raise ServiceUnavailable(
                (lines or [f"It ended with status {process.returncode}"])[-1].removeprefix("unveil: ")
            )
        record = read_record(folder)
        if record.ready and record.supervisor is not None and record.supervisor.pid == process.pid:
            return
        time.sleep(_POLL_S)
    process.terminate()
    raise ServiceUnavailable(f"Not all services answered within {_DETACH_S:.0f} s; see {log_file}.")
