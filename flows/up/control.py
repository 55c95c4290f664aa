"""Looking at a working system, stopping it, and starting it in the background."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.errors import ServiceUnavailable
from flows.up.keeper import sweep
from flows.up.members import PYTHON, Place, Service
from flows.up.record import ProcessId, read_record
from stac.io.files import private_state

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
    # Without a process of ours, somebody else may answer there.
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
            told = log_file.read_bytes()[begin:].decode(errors="replace").strip().splitlines()
            raise ServiceUnavailable(
                (told or [f"It ended with status {process.returncode}"])[-1].removeprefix("unveil: ")
            )
        record = read_record(folder)
        if record.ready and record.supervisor is not None and record.supervisor.pid == process.pid:
            return
        time.sleep(_POLL_S)
    process.terminate()
    raise ServiceUnavailable(f"Not all services answered within {_DETACH_S:.0f} s; see {log_file}.")
