"""States and records of the ledger, and names of runs."""

from __future__ import annotations

import os
import platform
import uuid
from dataclasses import dataclass
from enum import StrEnum, unique
from pathlib import Path

import psutil


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
#: States in which no run works on a unit.
ENDED = frozenset(State) - HELD


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
    #: The unit as JSON, enough to plan it again.
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
    #: Until when the unit is held; empty when no run holds it.
    lease_until: str
    #: Held by a run whose lease has run out.
    expired: bool

    @property
    def held(self) -> bool:
        """A run works on it and its lease is good."""
        return self.state in HELD and not self.expired


@dataclass(frozen=True, slots=True)
class Page:
    """Some lines of the ledger."""

    entries: tuple[Entry, ...]
    #: What to ask for the next page with; empty on the last one.
    next: str


@dataclass(frozen=True, slots=True)
class Planned:
    """What the ledger knows about how a unit was planned."""

    entry: Entry
    #: The unit as JSON; empty where its command plans it anew.
    unit: str
    request_id: str


def new_run_id() -> str:
    """Return the name of a run: host, process, its start, and a random part."""
    return f"{platform.node() or 'host'}:{os.getpid()}:{started_at(os.getpid())}.{uuid.uuid4().hex[:8]}"


def is_own(run_id: str) -> bool:
    """Return whether a run is that of this process."""
    return run_id.rpartition(":")[0] == new_run_id().rpartition(":")[0]


def is_dead(run_id: str) -> bool:
    """Return whether the process of a run is known to have ended; nothing is known of other hosts."""
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
    """Return whether a process exists and has not ended.

    In containers processes that ended often stay as zombies: no parent has asked how they ended.
    """
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
