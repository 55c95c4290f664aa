"""The ledger of work: which unit is in which state, kept in SQLite."""

from __future__ import annotations

import os
import platform
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum, unique
from pathlib import Path

import psutil

from flows.errors import FlowError

_BUSY_TIMEOUT_S = 30


@unique
class State(StrEnum):
    """Where a work unit stands."""

    #: Being worked on by a run.
    RUNNING = "RUNNING"
    #: Published.
    SUCCEEDED = "SUCCEEDED"
    #: Something broke; another try may help.
    FAILED = "FAILED"
    #: The input cannot be used; another try will not help.
    INVALID = "INVALID"
    #: Stopped by a person or a signal.
    ABORTED = "ABORTED"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger."""

    work_id: str
    item_id: str
    target_id: str
    state: State
    attempts: int
    run_id: str
    error: str
    item_href: str
    seconds: float
    updated: str


_SCHEMA = """
CREATE TABLE IF NOT EXISTS work (
    work_id TEXT PRIMARY KEY, item_id TEXT NOT NULL, target_id TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, run_id TEXT NOT NULL, error TEXT NOT NULL, item_href TEXT NOT NULL,
    seconds REAL NOT NULL, updated TEXT NOT NULL
)
"""
_COLUMNS = "work_id, item_id, target_id, state, attempts, run_id, error, item_href, seconds, updated"


class Ledger:
    """Work units and their states; safe for several processes on one machine."""

    def __init__(self, path: Path) -> None:
        """Open or create the ledger.

        Raises:
            FlowError: the file cannot be opened or is not a ledger.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._connection() as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise FlowError(
                f"The ledger {path} cannot be opened ({error}); check the folder or name another --state-dir."
            ) from error

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_S)
        try:
            with connection:
                yield connection
        finally:
            connection.close()

    def start(self, work_id: str, item_id: str, target_id: str, run_id: str) -> bool:
        """Claim a unit for a run; False when another run that still lives holds it.

        A claim of the same run is renewed (a retried task), a claim of a dead process is taken over.
        """
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            row = connection.execute("SELECT state, run_id FROM work WHERE work_id=?", (work_id,)).fetchone()
            if row and row[0] == State.RUNNING and row[1] != run_id and _lives(row[1]):
                return False
            connection.execute(
                "INSERT INTO work VALUES (?, ?, ?, 'RUNNING', 1, ?, '', '', 0, ?) ON CONFLICT(work_id) DO UPDATE SET "
                "state='RUNNING', attempts=attempts+1, run_id=excluded.run_id, error='', updated=excluded.updated",
                (work_id, item_id, target_id, run_id, _now()),
            )
            return True

    def finish(self, work_id: str, state: State, *, error: str = "", item_href: str = "", seconds: float = 0.0) -> None:
        """Record how a unit ended."""
        with self._connection() as connection:
            connection.execute(
                "UPDATE work SET state=?, error=?, item_href=?, seconds=?, updated=? WHERE work_id=?",
                (state, error, item_href, seconds, _now(), work_id),
            )

    def abort(self, run_id: str) -> int:
        """Mark what a run left unfinished; return how many units that were."""
        with self._connection() as connection:
            found = connection.execute(
                "UPDATE work SET state='ABORTED', error='the run was stopped', updated=? "
                "WHERE run_id=? AND state='RUNNING'",
                (_now(), run_id),
            )
            return found.rowcount

    def entries(self) -> list[Entry]:
        """Return all lines, latest first."""
        with self._connection() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM work ORDER BY updated DESC, work_id").fetchall()  # noqa: S608 - constants
        return [Entry(row[0], row[1], row[2], State(row[3]), *row[4:]) for row in rows]


def new_run_id() -> str:
    """Return the name of a run: host, process and a random part."""
    return f"{platform.node() or 'host'}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def _lives(run_id: str) -> bool:
    """Tell whether the process of a run may still be alive; runs of other hosts count as alive."""
    host, process, _ = run_id.rsplit(":", 2)
    return host != (platform.node() or "host") or psutil.pid_exists(int(process))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
