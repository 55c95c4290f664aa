"""The ledger: claim, start, renew, finish and abort work units under a lease."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import URL, Connection, Update, select
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from flows.errors import FlowError, LeaseLost, LedgerUnavailable
from flows.ledger import database as statements
from flows.ledger.database import Listing, explained, open_engine, parse_url, shown
from flows.ledger.schema import ENDED, HELD, Entry, Job, Lease, State, is_dead, prepare, request
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
_Result = TypeVar("_Result")


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
        self.listing = Listing(self._engine, url, catalog)

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
        values = self._line(job, State.CLAIMED, attempts=1, run_id=run_id, token=uuid.uuid4().hex, lease_s=self.lease_s)
        asked = values | {"again": ENDED & set(again), "dead_token": ""}
        for _ in range(_ATTEMPTS):
            attempt = self._write(lambda c: c.execute(statements.claim(self._engine.dialect), asked).scalar())
            if attempt is not None:
                return Lease(job.work_id, values["token"], int(attempt))
            entry, holder = self.listing.holder(job.work_id)
            if entry is not None and entry.state in HELD and is_dead(entry.run_id):
                asked["dead_token"] = holder
            elif entry is not None and (entry.held or entry.state in ENDED - set(again)):
                return entry
        # Others claim and end it faster than we can look.
        raise LedgerUnavailable(f"Unit {job.work_id} is contended in the ledger {shown(self.url)}; run it again later.")

    def start(self, lease: Lease) -> bool:
        """Record that work on a claimed unit has begun; False when the lease was lost."""
        return self._step(statements.start(), lease, State.RUNNING, lease_s=self.lease_s)

    def renew(self, lease: Lease) -> bool:
        """Renew a lease; False when another run has taken the unit over.

        Asked just before publishing, this is the fence: a run that lost the lease must not publish.
        """
        return self._changed(statements.renew(), self._held_by(lease) | {"lease_s": self.lease_s}) == 1

    def finish(self, lease: Lease, state: State, *, error: str = "", item_href: str = "", seconds: float = 0.0) -> bool:
        """Record how a unit ended; False when the lease was lost, and then nothing is recorded."""
        return self._step(statements.finish(), lease, state, error=error, item_href=item_href, seconds=seconds)

    def abort(self, run_id: str) -> list[str]:
        """Mark what a run left unfinished; return the work ids of these units."""
        return self._write(lambda c: list(c.execute(statements.abort(), {"left_by": run_id}).scalars()))

    def record_published(self, job: Job, item_href: str) -> bool:
        """Record that a unit was found published, e.g. by a run that died before it could; False when it is known.

        A unit that a living run holds is left to that run, unless its process is known to be dead.
        """
        # Never claimed here: the product came with the catalog.
        line = self._line(job, State.SUCCEEDED, attempts=0, item_href=item_href) | {"dead_token": ""}
        if self._record_published(line):
            return True
        entry, holder = self.listing.holder(job.work_id)
        dead = entry is not None and entry.state in HELD and is_dead(entry.run_id)
        return dead and self._record_published(line | {"dead_token": holder})

    def remember(self, document: str) -> str:
        """Keep settings and model of a run; return their id, the same for the same document."""
        name = hashlib.sha256(document.encode()).hexdigest()[:32]
        insert = statements.insert_for(self._engine.dialect, request).values(id=name, document=document)
        self._write(lambda c: c.execute(insert.on_conflict_do_nothing()))
        return name

    def request(self, name: str) -> str | None:
        """Return settings and model by their id."""
        with explained(self.url), self._engine.connect() as connection:
            found = connection.execute(select(request.c.document).where(request.c.id == name)).scalar()
        return None if found is None else str(found)

    def _line(self, job: Job, state: State, **values: Any) -> dict[str, Any]:
        """Return a new line of a unit; what is not given is empty."""
        empty = {"run_id": "", "token": "", "error": "", "item_href": "", "seconds": 0.0}
        return {"catalog": self.catalog, "state": state} | asdict(job) | empty | values

    def _record_published(self, line: Mapping[str, Any]) -> bool:
        return (
            self._write(lambda c: c.execute(statements.record_published(self._engine.dialect), line).first())
            is not None
        )

    def _held_by(self, lease: Lease) -> dict[str, Any]:
        return {"in_catalog": self.catalog, "of_work": lease.work_id, "held_token": lease.token}

    def _step(self, change: Update, lease: Lease, state: State, **values: Any) -> bool:
        """Take a unit to another state if the lease holds; the same step twice is one step."""
        return self._changed(change, self._held_by(lease) | {"to_state": state, "may": HELD | {state}} | values) == 1

    def _changed(self, change: Update, values: Mapping[str, Any]) -> int:
        """Return how many lines an update changed."""
        return self._write(lambda c: c.execute(change, values).rowcount)

    def _write(self, operation: Callable[[Connection], _Result]) -> _Result:
        """Run an operation in a transaction of its own; a connection that broke is tried again."""
        for attempt in Retrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.2, max=2),
            retry=retry_if_exception_type(LedgerUnavailable),
            reraise=True,
        ):
            with attempt, explained(self.url), self._engine.begin() as connection:
                return operation(connection)
        raise AssertionError("unreachable")  # pragma: no cover


def reconcile(ledger: Ledger, jobs: Sequence[Job], published: Mapping[str, Location]) -> None:
    """Record units that are published although the ledger does not know: a run that died just after could not.

    Args:
        ledger: of the catalog.
        jobs: units that are published.
        published: the place of each by work id.
    """
    known = ledger.listing.of([job.work_id for job in jobs])
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
        entries = ledger.listing.of(work_ids).values()
        if not any(entry.held and not is_dead(entry.run_id) for entry in entries):
            return
        time.sleep(_POLL_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter


FILE_NAME = "ledger.db"


def ledger_place(state: Path, out: str, ledger_url: str | None) -> tuple[URL, str]:
    """Return where the ledger is and the name of a catalog in it.

    A file lies in the state folder and names the catalog by the way from there, so both can be moved together. A server
    is shared by machines, and names the catalog by its full address.

    Args:
        state: the state folder.
        out: folder or URL of the catalog.
        ledger_url: the setting; a file in the state folder when None.

    Raises:
        InvalidSettings: the URL is none of a ledger.
    """
    remote = "://" in out
    if ledger_url is None:
        folder = state.resolve()
        place = URL.create("sqlite", database=str(folder / FILE_NAME))
        return place, out if remote else os.path.relpath(Path(out).resolve(), folder)
    return parse_url(ledger_url), out if remote else str(Path(out).resolve())


def place_of(settings: RunSettings) -> tuple[URL, str]:
    """Return where the ledger of a run is, and the name of the run's catalog in it.

    Raises:
        InvalidSettings: `ledger_url` is none of a ledger.
    """
    secret = settings.ledger_url
    return ledger_place(settings.state, str(settings.out), None if secret is None else secret.get_secret_value())


def open_ledger(settings: RunSettings) -> Ledger:
    """Open or create the ledger of a run.

    Raises:
        FlowError: it cannot be opened, or a newer version made it.
    """
    return Ledger(*place_of(settings), settings.lease_s)


_log = logging.getLogger("unveil")
#: A lease survives that many beats in a row that do not reach the database.
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
