"""The ledger: claim, start, renew, finish and abort work units under a lease."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Row
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from flows.errors import FlowError, InvalidSettings, LeaseLost, LedgerUnavailable
from flows.ledger.database import explained, open_engine, parse_url, prepare, reading, shown, statement
from flows.ledger.schema import ENDED, HELD, Entry, Job, Lease, Page, Planned, State, is_dead
from stac.io.s3 import Location

if TYPE_CHECKING:
    from flows.settings import RunSettings


#: Seconds that a claim holds without being renewed.
LEASE_S = 120.0
#: Ended states after which another try may help.
AGAIN = frozenset({State.FAILED, State.ABORTED})
_ATTEMPTS = 3
#: Between two looks at units that other runs hold, seconds.
_POLL_S = 1.0
#: Lines that are read at once.
_PAGE = 1000

#: Insert a unit or take one that is free; returns the attempt. Free is what has ended in a state of `again`, what is
#: held under a lease that has run out, our own claim, whose answer was lost on the way, what an earlier execution of
#: the same run holds, which is taken for lost, and what is held under `dead_token`; the empty token is that of units
#: which were never claimed. An attempt is one of a run, however often the run's task is executed.
_CLAIM = """
    INSERT INTO work (
        catalog, work_id, item_id, target_id, cell_id, state, attempts, run_id, token, lease_until, error, item_href,
        seconds, created, updated, unit, request_id
    ) VALUES (
        :catalog, :work_id, :item_id, :target_id, :cell_id, 'CLAIMED', 1, :run_id, :token, now_s() + :lease_s, '', '',
        0, now_s(), now_s(), :unit, :request_id
    )
    ON CONFLICT (catalog, work_id) DO UPDATE SET
        item_id = excluded.item_id, target_id = excluded.target_id, cell_id = excluded.cell_id, state = excluded.state,
        attempts = work.attempts + CASE WHEN work.token = :token OR work.run_id = :run_id THEN 0 ELSE 1 END,
        run_id = excluded.run_id, token = excluded.token, lease_until = excluded.lease_until, error = '',
        item_href = '', seconds = 0, updated = excluded.updated, unit = excluded.unit,
        request_id = excluded.request_id
    WHERE work.state IN :again OR work.token = :token
        OR work.state IN ('CLAIMED', 'RUNNING') AND (work.run_id = :run_id OR work.lease_until < now_s())
        OR work.token = :dead_token AND work.token <> ''
    RETURNING attempts
"""
#: Record a unit as published unless a living run holds it; returns its id where that changed it. One that was never
#: claimed here came with the catalog.
_PUBLISHED = """
    INSERT INTO work (
        catalog, work_id, item_id, target_id, cell_id, state, attempts, run_id, token, lease_until, error, item_href,
        seconds, created, updated, unit, request_id
    ) VALUES (
        :catalog, :work_id, :item_id, :target_id, :cell_id, 'SUCCEEDED', 0, '', '', 0, '', :item_href, 0, now_s(),
        now_s(), :unit, :request_id
    )
    ON CONFLICT (catalog, work_id) DO UPDATE SET
        state = 'SUCCEEDED', item_href = :item_href, error = '', lease_until = 0, updated = now_s()
    WHERE work.state <> 'SUCCEEDED' AND (
        work.state NOT IN ('CLAIMED', 'RUNNING') OR work.lease_until < now_s()
        OR work.token = :dead_token AND work.token <> ''
    )
    RETURNING work_id
"""
#: What is changed under a lease: the unit must be held with its token.
_RENEW = """
    UPDATE work SET lease_until = now_s() + :lease_s
    WHERE catalog = :catalog AND work_id = :work_id AND token = :token AND state IN ('CLAIMED', 'RUNNING')
    RETURNING work_id
"""
_START = """
    UPDATE work SET state = 'RUNNING', updated = now_s(), lease_until = now_s() + :lease_s
    WHERE catalog = :catalog AND work_id = :work_id AND token = :token AND state IN ('CLAIMED', 'RUNNING')
    RETURNING work_id
"""
_FINISH = """
    UPDATE work SET state = :state, updated = now_s(), lease_until = 0, error = :error, item_href = :item_href,
        seconds = :seconds
    WHERE catalog = :catalog AND work_id = :work_id AND token = :token
        AND (state IN ('CLAIMED', 'RUNNING') OR state = :state)
    RETURNING work_id
"""
_ABORT = """
    UPDATE work SET state = 'ABORTED', error = 'the run was stopped', lease_until = 0, updated = now_s()
    WHERE run_id = :run_id AND state IN ('CLAIMED', 'RUNNING')
    RETURNING work_id
"""
_REMEMBER = "INSERT INTO request (id, document) VALUES (:id, :document) ON CONFLICT DO NOTHING RETURNING id"
_LINES = """
    SELECT work_id, item_id, target_id, cell_id, state, attempts, run_id, error, item_href, seconds, created, updated,
        lease_until, token, now_s() AS now
    FROM work WHERE catalog = :catalog
"""
_PLANS = "SELECT *, now_s() AS now FROM work WHERE catalog = :catalog"
_COUNTS = "SELECT state, count(*) AS number FROM work WHERE catalog = :catalog GROUP BY state"
_RETRIES = "SELECT coalesce(sum(attempts - 1), 0) FROM work WHERE catalog = :catalog AND attempts > 1"
_EXPIRED = """
    SELECT count(*) FROM work
    WHERE catalog = :catalog AND state IN ('CLAIMED', 'RUNNING') AND lease_until < now_s()
"""


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
            claimed = self._write(_CLAIM, **values, again=list(again), dead_token=dead_token)
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
        return self._changed(_START, lease, lease_s=self.lease_s)

    def renew(self, lease: Lease) -> bool:
        """Renew a lease; False when another run has taken the unit over.

        Asked just before publishing, this is the fence: a run that lost the lease must not publish.
        """
        return self._changed(_RENEW, lease, lease_s=self.lease_s)

    def finish(self, lease: Lease, state: State, *, error: str = "", item_href: str = "", seconds: float = 0.0) -> bool:
        """Record how a unit ended; False when the lease was lost, and then nothing is recorded."""
        return self._changed(_FINISH, lease, state=state, error=error, item_href=item_href, seconds=seconds)

    def abort(self, run_id: str) -> list[str]:
        """Mark what a run left unfinished; return the work ids of these units."""
        return [row.work_id for row in self._write(_ABORT, run_id=run_id)]

    def record_published(self, job: Job, item_href: str) -> bool:
        """Record that a unit was found published, e.g. by a run that died before it could; False when it is known.

        A unit that a living run holds is left to that run, unless its process is known to be dead.
        """
        values = asdict(job) | {"item_href": item_href}
        if self._write(_PUBLISHED, **values, dead_token=""):
            return True
        entry, holder = self._holder(job.work_id)
        dead = entry is not None and entry.state in HELD and is_dead(entry.run_id)
        return dead and bool(self._write(_PUBLISHED, **values, dead_token=holder))

    def save_request(self, document: str) -> str:
        """Keep settings and model of a run; return their id, the same for the same document."""
        name = hashlib.sha256(document.encode()).hexdigest()[:32]
        self._write(_REMEMBER, id=name, document=document)
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
        sql, values = _LINES, dict[str, Any](limit=limit + 1)
        if state is not None:
            sql, values["state"] = sql + " AND state = :state", state
        if after:
            sql += " AND (updated, work_id) < (:updated, :work_id)"
            values["updated"], values["work_id"] = _position(after)
        rows = self._read(sql + " ORDER BY updated DESC, work_id DESC LIMIT :limit", **values)
        last = rows[limit - 1] if len(rows) > limit else None
        return Page(tuple(map(_entry, rows[:limit])), f"{last.updated!r},{last.work_id}" if last else "")

    def counts(self) -> dict[State, int]:
        """Return how many units are in each state."""
        return dict.fromkeys(State, 0) | {State(row.state): int(row.number) for row in self._read(_COUNTS)}

    def retries(self) -> int:
        """Return how many attempts there were beyond the first of every unit."""
        return int(self._read(_RETRIES)[0][0])

    def expired(self) -> int:
        """Return how many units are held under a lease that has run out."""
        return int(self._read(_EXPIRED)[0][0])

    def entry(self, work_id: str) -> Entry | None:
        """Return the line of a unit."""
        return self._holder(work_id)[0]

    def of(self, work_ids: Sequence[str]) -> dict[str, Entry]:
        """Return the lines of units by work id; those that the ledger does not know are left out."""
        found: dict[str, Entry] = {}
        for first in range(0, len(work_ids), _PAGE // 2):
            some = list(work_ids[first : first + _PAGE // 2])
            rows = self._read(_LINES + " AND work_id IN :work_ids", work_ids=some)
            found |= {row.work_id: _entry(row) for row in rows}
        return found

    def plans_of(self, work_ids: Sequence[str]) -> list[Planned]:
        """Return how some units were planned, in any order; those that the ledger does not know are left out."""
        return [_planned(row) for row in self._read(_PLANS + " AND work_id IN :work_ids", work_ids=list(work_ids))]

    def planned(self, states: Collection[State]) -> Iterator[Planned]:
        """Yield all units in some states with their plans, by work id; the ledger may change meanwhile."""
        sql, last = _PLANS + " AND state IN :states AND work_id > :last ORDER BY work_id LIMIT :limit", ""
        while rows := self._read(sql, states=list(states), last=last, limit=_PAGE):
            yield from map(_planned, rows)
            last = rows[-1].work_id

    def _holder(self, work_id: str) -> tuple[Entry | None, str]:
        """Return the line of a unit and the token it is held with."""
        rows = self._read(_LINES + " AND work_id = :work_id", work_id=work_id)
        return (_entry(rows[0]), str(rows[0].token)) if rows else (None, "")

    def _changed(self, sql: str, lease: Lease, **values: Any) -> bool:
        """Change a unit that is held with a lease; the same step twice is one step."""
        return bool(self._write(sql, work_id=lease.work_id, token=lease.token, **values))

    def _read(self, sql: str, **values: Any) -> Sequence[Row[Any]]:
        """Return the rows of a query; it never waits for writers."""
        with explained(self.url), reading(self._engine).connect() as connection:
            return connection.execute(
                statement(self._engine.dialect.name, sql), {"catalog": self.catalog} | values
            ).all()

    def _write(self, sql: str, **values: Any) -> Sequence[Row[Any]]:
        """Run a statement in a transaction of its own, and return its rows; a connection that broke is tried again."""
        change = statement(self._engine.dialect.name, sql)
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
    """Record units that are published although the ledger does not know: a run that died just after could not.

    Args:
        ledger: of the catalog.
        jobs: units that are published.
        published: the place of each by work id.
    """
    known = ledger.of([job.work_id for job in jobs])
    for job in jobs:
        entry = known.get(job.work_id)
        if entry is None or entry.state is not State.SUCCEEDED:
            ledger.record_published(job, str(published[job.work_id]))


def wait_for_others(ledger: Ledger, work_ids: Sequence[str], timeout_s: float) -> None:
    """Wait until no living run holds any of some units, or the time is over.

    Raises:
        LedgerUnavailable: the database does not answer.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        entries = ledger.of(work_ids).values()
        if not any(entry.held and not is_dead(entry.run_id) for entry in entries):
            return
        time.sleep(_POLL_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter


FILE_NAME = "ledger.db"


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
        place = URL.create("sqlite", database=str(folder / FILE_NAME))
        return place, os.path.relpath(out.resolve(), folder) if isinstance(out, Path) else str(out)
    return parse_url(settings.ledger_url.get_secret_value()), str(out.resolve() if isinstance(out, Path) else out)


def open_ledger(settings: RunSettings) -> Ledger:
    """Open or create the ledger of a run.

    Raises:
        FlowError: it cannot be opened, or a newer version made it.
    """
    return Ledger(*place_of(settings), settings.lease_s)


_log = logging.getLogger("unveil")
#: Consecutive failed renewals before a lease expires.
_BEATS_PER_LEASE = 4


class Heartbeat:
    """Renews a lease from a thread while its context is open.

    A daemon thread: it ends with the process, so a dead process never renews.
    """

    def __init__(self, ledger: Ledger, lease: Lease) -> None:
        self._ledger, self._lease = ledger, lease
        self._stop, self._lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease {lease.work_id[:8]}", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def lost(self) -> bool:
        """The unit is known to belong to another run by now."""
        return self._lost.is_set()

    def require(self) -> None:
        """Renew the lease now, or raise: the fence just before publishing.

        Raises:
            LeaseLost: another run has taken the unit over.
            LedgerUnavailable: the database does not answer.
        """
        if self.lost or not self._ledger.renew(self._lease):
            self._lost.set()
            raise LeaseLost(
                f"Unit {self._lease.work_id} was taken over by another run while attempt {self._lease.attempt} worked "
                "on it (its lease had run out); nothing of this attempt is published."
            )

    def _beat(self) -> None:
        pause = self._ledger.lease_s / _BEATS_PER_LEASE
        renewed = time.monotonic()
        while not self._stop.wait(pause):
            try:
                alive = self._ledger.renew(self._lease)
            except LedgerUnavailable as error:
                # The next beat may reach it; whether the lease is lost is for the fence to find out.
                _log.warning("lease not renewed for %.0f s: %s", time.monotonic() - renewed, error)
                continue
            if not alive:
                self._lost.set()
                return
            renewed = time.monotonic()
