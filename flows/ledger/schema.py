"""States, records and tables of the ledger."""

from __future__ import annotations

import os
import platform
import uuid
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum, unique
from pathlib import Path

import psutil
from sqlalchemy import (
    Column,
    Connection,
    Double,
    Engine,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    func,
    insert,
    inspect,
    select,
    text,
)

from flows.errors import LedgerTooNew


@unique
class State(StrEnum):
    """Where a work unit stands."""

    #: Promised to a run that has not begun with it.
    CLAIMED = "CLAIMED"
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


#: States in which a run holds a unit, under a lease.
HELD = frozenset({State.CLAIMED, State.RUNNING})
#: States in which nobody works on a unit.
ENDED = frozenset(State) - HELD

#: A claim is open to every state that has ended; a held one only opens when its lease has run out.
_NEXT: dict[State, frozenset[State]] = {
    State.CLAIMED: frozenset({State.RUNNING}) | ENDED,
    State.RUNNING: ENDED,
    State.SUCCEEDED: frozenset({State.CLAIMED}),
    State.FAILED: frozenset({State.CLAIMED, State.SUCCEEDED}),
    State.INVALID: frozenset({State.CLAIMED, State.SUCCEEDED}),
    State.ABORTED: frozenset({State.CLAIMED, State.SUCCEEDED}),
}


def allowed(before: State, after: State) -> bool:
    """Tell whether a unit may go from one state to another."""
    return after in _NEXT[before]


def leading_to(state: State) -> tuple[State, ...]:
    """Return the states from which a unit may come to `state`."""
    return tuple(before for before in State if allowed(before, state))


@dataclass(frozen=True, slots=True)
class Job:
    """A unit of work as the ledger knows it."""

    #: The same for the same inputs, on every machine.
    work_id: str
    #: Id of the product's item.
    item_id: str
    #: Id of the scene that is restored.
    target_id: str
    cell_id: str = ""
    #: The unit as JSON, enough to plan it again; empty in lines of an older ledger.
    unit: str = ""
    #: Id of the settings and the model it was planned with.
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a unit, until it runs out or is renewed."""

    work_id: str
    #: Another one for every claim: a run that lost its lease holds an old token, which opens nothing.
    token: str
    #: Counts the claims of the unit from 1.
    attempt: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger."""

    work_id: str
    item_id: str
    target_id: str
    cell_id: str
    state: State
    attempts: int
    #: The last run that claimed the unit.
    run_id: str
    #: Why the last attempt ended without a product; empty otherwise.
    error: str
    #: Where the published item is; empty without one.
    item_href: str
    #: Seconds that the last attempt took.
    seconds: float
    #: Instants, RFC 3339 in UTC.
    created: str
    updated: str
    #: Until when the unit is held; empty when nobody holds it.
    lease_until: str
    #: Held by a run whose lease has run out.
    expired: bool

    @property
    def held(self) -> bool:
        """A run works on it and its lease is good."""
        return self.state in HELD and not self.expired


def new_run_id() -> str:
    """Return the name of a run: host, process, its start, and a random part."""
    return f"{platform.node() or 'host'}:{os.getpid()}:{started_at(os.getpid())}.{uuid.uuid4().hex[:8]}"


def is_own(run_id: str) -> bool:
    """Tell whether a run is that of this process."""
    return run_id.rpartition(":")[0] == new_run_id().rpartition(":")[0]


def is_dead(run_id: str) -> bool:
    """Tell whether the process of a run is known to have ended; nothing is known of other hosts."""
    host, process, rest = run_id.rsplit(":", 2)
    if host != (platform.node() or "host"):
        return False
    started = rest.rpartition(".")[0]
    try:
        later = bool(started) and started != started_at(int(process))
    except psutil.NoSuchProcess:
        return True
    return later or not _is_running(int(process))


def started_at(pid: int) -> str:
    """Return when a process started, as a name that no setting of the clock changes and no later process shares.

    Raises:
        NoSuchProcess: it has ended.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
        # The name of the process, in brackets, may hold anything; the start is field 22, in ticks since the boot.
        ticks = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    except OSError:
        return f"{psutil.Process(pid).create_time():.0f}"
    return f"{boot[:8]}-{ticks}"


def _is_running(process: int) -> bool:
    """Tell whether a process exists and has not ended.

    In containers the dead often stay as zombies: nobody asks how they ended.
    """
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


#: 1 was SQLite only: one table without leases. 2 knows leases, catalogs and requests.
VERSION = 2
#: Any number that no other program takes for its lock in the same database.
_LOCK = 7_041_889_231

metadata = MetaData()

version = Table("ledger_version", metadata, Column("version", Integer, nullable=False))

#: Settings and model of a run, once however many units share them.
request = Table("request", metadata, Column("id", Text, primary_key=True), Column("document", Text, nullable=False))

work = Table(
    "work",
    metadata,
    # One ledger may serve several catalogs; the same work can be published in each.
    Column("catalog", Text, primary_key=True),
    Column("work_id", Text, primary_key=True),
    Column("item_id", Text, nullable=False),
    Column("target_id", Text, nullable=False),
    Column("cell_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("token", Text, nullable=False),
    # Instants are seconds since 1970, UTC, by the clock of the database.
    Column("lease_until", Double, nullable=False),
    Column("error", Text, nullable=False),
    Column("item_href", Text, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("created", Double, nullable=False),
    Column("updated", Double, nullable=False),
    Column("unit", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Index("work_by_time", "catalog", "updated", "work_id"),
    Index("work_by_state", "catalog", "state", "updated", "work_id"),
    Index("work_by_run", "run_id", "state"),
)


def prepare(engine: Engine, catalog: str) -> None:
    """Create the tables, or bring those of an older version up to date; nothing of them is lost.

    Args:
        engine: the database.
        catalog: lines of version 1, which did not name one, become lines of this catalog.

    Raises:
        LedgerTooNew: a newer version of this software made the ledger.
    """
    with engine.connect() as connection:
        found = _version(connection)
    if found != VERSION:
        with engine.begin() as connection:
            _only_one(connection)
            # Another process may have done it while we waited.
            _bring_up(connection, _version(connection), catalog)


def _bring_up(connection: Connection, found: int, catalog: str) -> None:
    if found > VERSION:
        raise LedgerTooNew(
            f"The ledger is of version {found}, this software knows {VERSION}; update unveil-eo or name another one."
        )
    if found == VERSION:
        return
    if found == 1:
        connection.execute(text("ALTER TABLE work RENAME TO work_version_1"))
    metadata.create_all(connection)
    if found == 1:
        _copy_version_1(connection, catalog)
    connection.execute(insert(version).values(version=VERSION))


def _version(connection: Connection) -> int:
    """Return the version of the tables that are there; 0 without any."""
    tables = inspect(connection)
    if tables.has_table(version.name):
        return int(connection.execute(select(func.max(version.c.version))).scalar() or 0)
    return 1 if tables.has_table(work.name) else 0


def _only_one(connection: Connection) -> None:
    """Keep other processes out until the transaction ends; SQLite's transaction does so by itself."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def _copy_version_1(connection: Connection, catalog: str) -> None:
    """Copy the lines of version 1; what was RUNNING has no lease, so the next run may take it."""
    names = ("work_id", "item_id", "target_id", "state", "attempts", "run_id", "error", "item_href", "seconds")
    empty = {"catalog": catalog, "cell_id": "", "token": "", "lease_until": 0.0, "unit": "", "request_id": ""}
    rows = connection.execute(text(f"SELECT {', '.join(names)}, updated FROM work_version_1"))  # noqa: S608 - constants
    for page in rows.mappings().partitions(1000):
        values = []
        for row in page:
            instant = datetime.fromisoformat(row["updated"]).timestamp()
            values.append({name: row[name] for name in names} | empty | {"created": instant, "updated": instant})
        connection.execute(insert(work), values)
    connection.execute(text("DROP TABLE work_version_1"))
