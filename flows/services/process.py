"""A service as a process of ours: started under a keeper, asked until it answers, ended with all that it started."""

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx

from flows.errors import ServiceUnavailable
from stac.errors import DiskFull

#: Python that never takes a package from the folder it is started in, whatever lies there.
PYTHON = (sys.executable, "-P")
#: Seconds for a service to answer, a first start makes databases; for one request; and to end after a polite signal.
START_TIMEOUT_S, HEALTH_TIMEOUT_S, STOP_TIMEOUT_S = 300.0, 5.0, 10.0
POLL_S = 0.05
_LOG_LIMIT_BYTES = 5_000_000
_TAIL_LINES = 12
#: A disk with less room is full.
_LEAST_ROOM_BYTES = 1 << 20
#: What SQLite and the system say of a full disk, and of a database that cannot be used.
NO_ROOM = re.compile(r"No space left|disk is full|disk I/O error|Disk quota exceeded", re.IGNORECASE)
_BROKEN_DATABASE = re.compile(r"malformed|file is not a database|Can't locate revision", re.IGNORECASE)


def free_port() -> int:
    """Return a port of this machine that is not in use now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def problem_at(url: str) -> str | None:
    """Return None where a server of this machine answers a health check, else what is wrong."""
    try:
        answer = _client().get(url)
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    return None if answer.is_success else f"HTTP status {answer.status_code}"


@cache
def _client() -> httpx.Client:
    return httpx.Client(timeout=HEALTH_TIMEOUT_S, trust_env=False)  # a proxy has no business on loopback


def signal_group(leader: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a process group that may have ended already."""
    # On macOS a group of zombies answers with a permission error.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader.pid, number)


def kill_group(leader: subprocess.Popen[bytes]) -> None:
    """End what is left of a process group, and reap its leader."""
    signal_group(leader, signal.SIGKILL)
    leader.wait(STOP_TIMEOUT_S)


def log_tail(log_file: Path, start: int = 0) -> str:
    """Return the end of a message: where a log is, and its last lines from a byte on."""
    with log_file.open("rb") as stream:
        stream.seek(start)
        lines = stream.read().decode(errors="replace").strip().splitlines()
    tail = "\n".join(lines[-_TAIL_LINES:])
    return f". See {log_file}" + (f"; its last lines:\n{tail}" if tail else " (empty).")


@dataclass(frozen=True, slots=True)
class Process:
    """A service under its keeper, which leads a process group."""

    #: For messages, e.g. `mlflow service`.
    name: str
    keeper: subprocess.Popen[bytes]
    #: Working directory.
    folder: Path
    log_file: Path
    #: Size of the log when it started, bytes.
    log_start: int

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str],
        folder: Path,
        log_file: Path,
        *,
        environment: Mapping[str, str],
        mark: str,
        listener: socket.socket | None = None,
    ) -> Process:
        """Start `python -m COMMAND`; it ends when this process does, however that ends.

        Args:
            name: for messages.
            command: module and arguments.
            folder: working directory: Prefect reads settings from project files there.
            log_file: receives what it writes; a log that is long is put aside first.
            environment: all of it.
            mark: what its keeper knows it by, and all that it starts.
            listener: a bound socket that is handed over.
        """
        if log_file.exists() and log_file.stat().st_size > _LOG_LIMIT_BYTES:
            log_file.replace(log_file.with_suffix(".log.1"))
        with log_file.open("ab") as log:
            start = log.tell()
            keeper = subprocess.Popen(
                [*PYTHON, "-m", "flows.services.keeper", mark, *PYTHON, "-m", *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,  # closes when this process ends, however it ends
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is for this process
                pass_fds=[] if listener is None else [listener.fileno()],
            )
        return cls(name, keeper, folder, log_file, start)

    def wait_until_it_answers(self, url: str) -> None:
        """Return once its health check answers.

        Raises:
            ServiceUnavailable: it does not in time, or ended as it started.
            DiskFull: it ended because there was no room.
        """
        deadline, problem = time.monotonic() + START_TIMEOUT_S, None
        while time.monotonic() < deadline:
            if self.keeper.poll() is not None:
                raise self.ended()
            problem = problem_at(url)
            if problem is None and self.keeper.poll() is None:  # else another program answers
                return
            time.sleep(POLL_S)
        raise ServiceUnavailable(
            f"The {self.name} did not answer within {START_TIMEOUT_S:.0f} s ({problem}){self.log_tail()}"
        )

    def ended(self) -> Exception:
        """Return the error of a service that ended as it started."""
        tail = self.log_tail()
        # On a full disk the log is empty, too.
        if NO_ROOM.search(tail) or shutil.disk_usage(self.folder).free < _LEAST_ROOM_BYTES:
            return DiskFull(f"No room for the {self.name} in {self.folder}: free some space, then try again.")
        advice = ""
        if _BROKEN_DATABASE.search(tail):
            advice = f"; the database in {self.folder} is broken: move it away to start with an empty history"
        status = self.keeper.returncode
        return ServiceUnavailable(f"The {self.name} ended with status {status} while starting{advice}{tail}")

    def log_tail(self) -> str:
        """Return the end of a message: where the log is, and its last lines."""
        return log_tail(self.log_file, self.log_start)

    def stop(self) -> None:
        """End the process group: a polite signal, a bounded wait, then SIGKILL."""
        try:
            signal_group(self.keeper, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.keeper.wait(STOP_TIMEOUT_S)
        finally:
            self.kill()

    def kill(self) -> None:
        """End what is left of the process group, and reap it."""
        kill_group(self.keeper)
        if self.keeper.stdin is not None:
            self.keeper.stdin.close()
