"""The ledger: claim, start, renew, finish and abort work units under a lease; read how they stand."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Row
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from flows.errors import FlowError, InvalidSettings, LedgerUnavailable
from flows.ledger import database as sql
from flows.ledger.database import explained, open_engine, parse_url, prepare, reading, shown
from flows.ledger.schema import ENDED, HELD, Entry, Job, Lease, Page, Planned, State, is_dead
from flows.settings import RunSettings
from stac.io.s3 import Location

#: Seconds that a claim holds without being renewed.
LEASE_S = 120.0
#: Ended states after which another try may help.
AGAIN = frozenset({State.FAILED, State.ABORTED})
_ATTEMPTS = 3
#: Lines that are read at once.
_PAGE = 1000


class Ledger:
    """Work units of one catalog and their states; safe for many processes on many machines."""

    def __init__(self, url: URL, catalog: str, lease_s: float = LEASE_S) -> None:
        """Open or create the ledger.

        Args:
            url: the database, from `parse_url` or `place_of`.
            catalog: the catalog whose units these are; all runs that publish to it name it alike.
            lease_s: seconds that a claim holds without being renewed.

        Raises:
            FlowError: the ledger cannot be opened, or a newer version made it.
        """
        self.url, self.catalog, self.lease_s = url, catalog, lease_s
        self._engine = open_engine(url)
        try:
            with explained(url):
                prepare(self._engine)
        except FlowError:
            self._engine.dispose()
            raise

    @property
    def shown(self) -> str:
        """The ledger's place for people, without a password."""
        return shown(self.url)

    def close(self) -> None:
        """Close the connections; the ledger opens new ones when it is used again."""
        self._engine.dispose()

    def claim(self, job: Job, run_id: str, *, again: Collection[State] = AGAIN) -> Lease | Entry:
        """Claim a unit for a run; return the line that stands in the way when it cannot be had.

        A unit that another run holds is free again when its lease has run out, or at once when that run's process is
        known to be dead. One that the same run holds is taken over: its task is executed again only when its worker
        is taken for lost, and the new token locks that worker out should it still live.

        Args:
            job: the unit.
            run_id: the run, from `new_run_id`.
            again: ended states in which a unit may be worked on once more.

        Raises:
            LedgerUnavailable: the database does not answer.
        """
        values = asdict(job) | {"run_id": run_id, "token": uuid.uuid4().hex, "lease_s": self.lease_s}
        again, dead_token = ENDED & set(again), ""
        for _ in range(_ATTEMPTS):
            claimed = self._write(sql.CLAIM, **values, again=list(again), dead_token=dead_token)
            if claimed:
                return Lease(job.work_id, values["token"], int(claimed[0].attempts))
            entry, holder = self._holder(job.work_id)
            if entry is not None and entry.state in HELD and is_dead(entry.run_id):
                dead_token = holder
            elif entry is not None and (entry.held or entry.state in ENDED - again):
                return entry
        # Others claim and end it faster than we can look.
        raise LedgerUnavailable(f"Unit {job.work_id} is contended in the ledger {shown(self.url)}; run it again later.")

    def start(self, lease: Lease) -> bool:
        """Record that work on a claimed unit has begun; False when the lease was lost."""
        return self._changed(sql.START, lease, lease_s=self.lease_s)

    def renew(self, lease: Lease) -> bool:
        """Renew a lease; False when another run has taken the unit over.

        Asked just before publishing, this is the fence: a run that lost the lease must not publish.
        """
        return self._changed(sql.RENEW, lease, lease_s=self.lease_s)

    def finish(self, lease: Lease, state: State, *, error: str = "", item_href: str = "", seconds: float = 0.0) -> bool:
        """Record how a unit ended; False when the lease was lost, and then nothing is recorded."""
        return self._changed(sql.FINISH, lease, state=state, error=error, item_href=item_href, seconds=seconds)

    def abort(self, run_id: str) -> list[str]:
        """Mark what a run left unfinished; return the work ids of these units."""
        return [row.work_id for row in self._write(sql.ABORT, run_id=run_id)]

    def record_published(self, job: Job, item_href: str) -> bool:
        """Record that a unit was found published, e.g. by a run that died before it could; False when it is known.

        A unit that a living run holds is left to that run, unless its process is known to be dead.
        """
        values = asdict(job) | {"item_href": item_href}
        if self._write(sql.PUBLISHED, **values, dead_token=""):
            return True
        entry, holder = self._holder(job.work_id)
        dead = entry is not None and entry.state in HELD and is_dead(entry.run_id)
        return dead and bool(self._write(sql.PUBLISHED, **values, dead_token=holder))

    def save_request(self, document: str) -> str:
        """Keep settings and model of a run; return their id, the same for the same document."""
        name = hashlib.sha256(document.encode()).hexdigest()[:32]
        self._write(sql.REMEMBER, id=name, document=document)
        return name

    def request(self, name: str) -> str | None:
        """Return settings and model by their id."""
        rows = self._read("SELECT document FROM request WHERE id = :id", id=name)
        return str(rows[0].document) if rows else None

    def page(self, limit: int, *, state: State | None = None, after: str = "") -> Page:
        """Return up to `limit` lines, latest first, after the end of an earlier page.

        Raises:
            InvalidSettings: `after` was not given out by an earlier page.
            LedgerUnavailable: the database does not answer.
        """
        query, values = sql.LINES, dict[str, Any](limit=limit + 1)
        if state is not None:
            query, values["state"] = query + " AND state = :state", state
        if after:
            query += " AND (updated, work_id) < (:updated, :work_id)"
            values["updated"], values["work_id"] = _position(after)
        rows = self._read(query + " ORDER BY updated DESC, work_id DESC LIMIT :limit", **values)
        last = rows[limit - 1] if len(rows) > limit else None
        return Page(tuple(map(_entry, rows[:limit])), f"{last.updated!r},{last.work_id}" if last else "")

    def counts(self) -> dict[State, int]:
        """Return how many units are in each state."""
        return dict.fromkeys(State, 0) | {State(row.state): int(row.number) for row in self._read(sql.COUNTS)}

    def retries(self) -> int:
        """Return how many attempts there were beyond the first of every unit."""
        return int(self._read(sql.RETRIES)[0][0])

    def expired(self) -> int:
        """Return how many units are held under a lease that has run out."""
        return int(self._read(sql.EXPIRED)[0][0])

    def entry(self, work_id: str) -> Entry | None:
        """Return the line of a unit."""
        return self._holder(work_id)[0]

    def of(self, work_ids: Sequence[str]) -> dict[str, Entry]:
        """Return the lines of units by work id; those that the ledger does not know are left out."""
        found: dict[str, Entry] = {}
        for first in range(0, len(work_ids), _PAGE // 2):
            some = list(work_ids[first : first + _PAGE // 2])
            rows = self._read(sql.LINES + " AND work_id IN :work_ids", work_ids=some)
            found |= {row.work_id: _entry(row) for row in rows}
        return found

    def plans_of(self, work_ids: Sequence[str]) -> list[Planned]:
        """Return how some units were planned, in any order; those that the ledger does not know are left out."""
        return [_planned(row) for row in self._read(sql.PLANS + " AND work_id IN :work_ids", work_ids=list(work_ids))]

    def planned(self, states: Collection[State]) -> Iterator[Planned]:
        """Yield all units in some states with their plans, by work id; the ledger may change meanwhile."""
        query, last = sql.PLANS + " AND state IN :states AND work_id > :last ORDER BY work_id LIMIT :limit", ""
        while rows := self._read(query, states=list(states), last=last, limit=_PAGE):
            yield from map(_planned, rows)
            last = rows[-1].work_id

    def _holder(self, work_id: str) -> tuple[Entry | None, str]:
        """Return the line of a unit and the token it is held with."""
        rows = self._read(sql.LINES + " AND work_id = :work_id", work_id=work_id)
        return (_entry(rows[0]), str(rows[0].token)) if rows else (None, "")

    def _changed(self, step: str, lease: Lease, **values: Any) -> bool:
        """Change a unit that is held with a lease; the same step twice is one step."""
        return bool(self._write(step, work_id=lease.work_id, token=lease.token, **values))

    def _read(self, query: str, **values: Any) -> Sequence[Row[Any]]:
        """Return the rows of a query; it never waits for writers."""
        with explained(self.url), reading(self._engine).connect() as connection:
            found = sql.statement(self._engine.dialect.name, query)
            return connection.execute(found, {"catalog": self.catalog} | values).all()

    def _write(self, step: str, **values: Any) -> Sequence[Row[Any]]:
        """Run a statement in a transaction of its own, and return its rows; a connection that broke is tried again."""
        change = sql.statement(self._engine.dialect.name, step)
        for attempt in Retrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.2, max=2),
            retry=retry_if_exception_type(LedgerUnavailable),
            reraise=True,
        ):
            with attempt, explained(self.url), self._engine.begin() as connection:
                return connection.execute(change, {"catalog": self.catalog} | values).all()
        raise AssertionError("unreachable")  # pragma: no cover


def _planned(row: Row[Any]) -> Planned:
    return Planned(_entry(row), row.unit, row.request_id)


def _entry(row: Row[Any]) -> Entry:
    held = row.state in HELD
    return Entry(
        work_id=row.work_id,
        item_id=row.item_id,
        target_id=row.target_id,
        cell_id=row.cell_id,
        state=State(row.state),
        attempts=row.attempts,
        run_id=row.run_id,
        error=row.error,
        item_href=row.item_href,
        seconds=row.seconds,
        created=_instant(row.created),
        updated=_instant(row.updated),
        lease_until=_instant(row.lease_until) if held else "",
        expired=held and row.lease_until < row.now,
    )


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _position(after: str) -> tuple[float, str]:
    seconds, _, work_id = after.partition(",")
    try:
        return float(seconds), work_id
    except ValueError as error:
        raise InvalidSettings(
            f"--after {after!r} is not the end of a page; copy what the page before said under `next`."
        ) from error


def reconcile(ledger: Ledger, jobs: Sequence[Job], published: Mapping[str, Location]) -> None:
    """Record units that are published although the ledger does not know: a run that died just after could not."""
    known = ledger.of([job.work_id for job in jobs])
    for job in jobs:
        entry = known.get(job.work_id)
        if entry is None or entry.state is not State.SUCCEEDED:
            ledger.record_published(job, str(published[job.work_id]))


def place_of(settings: RunSettings) -> tuple[URL, str]:
    """Return where the ledger of a run is, and the name of the run's catalog in it.

    A file lies in the state folder and names the catalog by the way from there, so both can be moved together. A server
    is shared by machines, and names the catalog by its full address.

    Raises:
        InvalidSettings: `ledger_url` is not the URL of a ledger.
    """
    out = settings.out
    if settings.ledger_url is None:
        folder = settings.state.resolve()
        place = URL.create("sqlite", database=str(folder / "ledger.db"))
        return place, os.path.relpath(out.resolve(), folder) if isinstance(out, Path) else str(out)
    return parse_url(settings.ledger_url.get_secret_value()), str(out.resolve() if isinstance(out, Path) else out)


def open_ledger(settings: RunSettings) -> Ledger:
    """Open or create the ledger of a run.

    Raises:
        FlowError: it cannot be opened, or a newer version made it.
    """
    return Ledger(*place_of(settings), settings.lease_s)


def existing_ledger(settings: RunSettings) -> Ledger | None:
    """Open the ledger of a run for a look at it; None where its file does not exist, which is not made then.

    Raises:
        FlowError: it cannot be opened, or a newer version made it.
    """
    url, _ = place_of(settings)
    if url.drivername == "sqlite" and not Path(str(url.database)).is_file():
        return None
    return open_ledger(settings)


@dataclass(frozen=True, slots=True)
class Status:
    """Counts and a page of the ledger."""

    #: The file, or the URL without password.
    ledger: str
    #: Units in each state.
    counts: dict[State, int]
    #: Held units whose lease has run out.
    expired: int
    #: Attempts beyond the first of every unit.
    retries: int
    entries: tuple[Entry, ...]
    #: `--after` of the next page; empty on the last one.
    next: str


def status(settings: RunSettings, *, state: State | None = None, limit: int = 50, after: str = "") -> Status:
    """Return counts and a page of lines, latest first; a ledger that does not exist yet is empty and is not made.

    Raises:
        InvalidSettings: `after` was not given out by an earlier page.
        FlowError: the ledger cannot be read.
    """
    ledger = existing_ledger(settings)
    if ledger is None:
        return Status(shown(place_of(settings)[0]), dict.fromkeys(State, 0), 0, 0, (), "")
    with closing(ledger):
        page = ledger.page(limit, state=state, after=after)
        return Status(ledger.shown, ledger.counts(), ledger.expired(), ledger.retries(), page.entries, page.next)
