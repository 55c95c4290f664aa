"""Claiming units and recording how they ended: every step is one conditional statement."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Update, and_, case, false, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from flows.errors import FlowError, LedgerUnavailable
from flows.ledger.database import explained, now_s, open_engine, shown
from flows.ledger.listing import Listing
from flows.ledger.records import Entry, Job, Lease, is_dead
from flows.ledger.schema import prepare, request, work
from flows.ledger.states import ENDED, HELD, State, leading_to

#: Seconds that a claim holds without being renewed.
LEASE_S = 120.0
#: Ended states after which another try may help.
AGAIN = frozenset({State.FAILED, State.ABORTED})
_ATTEMPTS = 3
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
                prepare(self._engine, catalog)
        except FlowError:
            self._engine.dispose()
            raise
        self.listing = Listing(self._engine, url, catalog)

    def close(self) -> None:
        """Close the connections; the ledger opens new ones when it is used again."""
        self._engine.dispose()

    def claim(self, job: Job, run_id: str, *, again: Collection[State] = AGAIN) -> Lease | Entry:
        """Claim a unit for a run; return the line that stands in the way when it cannot be had.

        A unit that another run holds is free again when its lease has run out, or at once when that run's process is
        known to be dead.

        Args:
            job: the unit.
            run_id: the run, from `new_run_id`.
            again: ended states in which a unit may be worked on once more.

        Raises:
            LedgerUnavailable: the database does not answer.
        """
        token, dead = uuid.uuid4().hex, ""
        for _ in range(_ATTEMPTS):
            claim = self._claim(job, run_id, token, again, dead)
            attempt = self._write(lambda c, claim=claim: c.execute(claim).scalar())  # type: ignore[misc]
            if attempt is not None:
                return Lease(job.work_id, token, int(attempt))
            entry, holder = self.listing.holder(job.work_id)
            if entry is not None and entry.state in HELD and is_dead(entry.run_id):
                dead = holder
            elif entry is not None and (entry.held or entry.state in ENDED - set(again)):
                return entry
        # Others claim and end it faster than we can look.
        raise LedgerUnavailable(f"Unit {job.work_id} is contended in the ledger {shown(self.url)}; run it again later.")

    def start(self, lease: Lease) -> bool:
        """Record that work on a claimed unit has begun; False when the lease was lost."""
        return self._step(lease, State.RUNNING, {"lease_until": now_s() + self.lease_s})

    def renew(self, lease: Lease) -> bool:
        """Renew a lease; False when another run has taken the unit over.

        Asked just before publishing, this is the fence: whoever lost the lease must not publish.
        """
        change = self._held_by(lease).values(lease_until=now_s() + self.lease_s)
        return self._write(lambda c: c.execute(change).rowcount) == 1

    def finish(self, lease: Lease, state: State, *, error: str = "", item_href: str = "", seconds: float = 0.0) -> bool:
        """Record how a unit ended; False when the lease was lost, and then nothing is recorded."""
        values = {"error": error, "item_href": item_href, "seconds": seconds, "lease_until": 0.0}
        return self._step(lease, state, values)

    def abort(self, run_id: str) -> int:
        """Mark what a run left unfinished; return how many units that were."""
        values = {"state": State.ABORTED, "error": "the run was stopped", "lease_until": 0.0, "updated": now_s()}
        left = update(work).where(work.c.run_id == run_id, work.c.state.in_(HELD)).values(values)
        return self._write(lambda c: c.execute(left).rowcount)

    def settle(self, job: Job, item_href: str) -> bool:
        """Record that a unit was found published, e.g. by a run that died before it could; False when it is known.

        A unit that a living run holds is left to that run; nobody waits for a process that is known to be dead.
        """
        settled = self._write(lambda c: c.execute(self._settlement(job, item_href)).first())
        if settled is None:
            entry, holder = self.listing.holder(job.work_id)
            if entry is None or entry.state not in HELD or not is_dead(entry.run_id):
                return False
            settled = self._write(lambda c: c.execute(self._settlement(job, item_href, holder)).first())
        return settled is not None

    def remember(self, document: str) -> str:
        """Keep settings and model of a run; return their id, the same for the same document."""
        name = hashlib.sha256(document.encode()).hexdigest()[:32]
        insert = self._dialect.insert(request).values(id=name, document=document).on_conflict_do_nothing()
        self._write(lambda c: c.execute(insert))
        return name

    def request(self, name: str) -> str | None:
        """Return settings and model by their id."""
        with explained(self.url), self._engine.connect() as connection:
            found = connection.execute(select(request.c.document).where(request.c.id == name)).scalar()
        return None if found is None else str(found)

    def _claim(self, job: Job, run_id: str, token: str, again: Collection[State], dead_token: str) -> Any:
        """Return the statement that inserts a unit or takes one that is free, and returns the attempt."""
        values = self._new(job, run_id, token, State.CLAIMED)
        free = or_(
            work.c.state.in_(ENDED & set(again)),
            and_(work.c.state.in_(HELD), work.c.lease_until < now_s()),
            # Our own claim, whose answer was lost on the way.
            work.c.token == token,
            work.c.token == dead_token if dead_token else false(),
        )
        kept = {"catalog", "work_id", "created", "attempts"}
        changed = {name: value for name, value in values.items() if name not in kept}
        attempts = case((work.c.token == token, work.c.attempts), else_=work.c.attempts + 1)
        statement = self._insert().values(values)
        return statement.on_conflict_do_update(
            index_elements=[work.c.catalog, work.c.work_id], set_=changed | {"attempts": attempts}, where=free
        ).returning(work.c.attempts)

    def _settlement(self, job: Job, item_href: str, dead_token: str = "") -> Any:
        """Return the statement that records a unit as published, unless it is held, and returns its id."""
        # Never claimed here: the product came with the catalog.
        values = self._new(job, "", "", State.SUCCEEDED) | {"attempts": 0, "lease_until": 0.0, "item_href": item_href}
        free = or_(
            work.c.state.not_in(HELD),
            work.c.lease_until < now_s(),
            work.c.token == dead_token if dead_token else false(),
        )
        changed = {"state": State.SUCCEEDED, "item_href": item_href, "error": "", "lease_until": 0.0}
        return (
            self._insert()
            .values(values)
            .on_conflict_do_update(
                index_elements=[work.c.catalog, work.c.work_id],
                set_=changed | {"updated": now_s()},
                where=and_(work.c.state != State.SUCCEEDED, free),
            )
            .returning(work.c.work_id)
        )

    def _new(self, job: Job, run_id: str, token: str, state: State) -> dict[str, Any]:
        return {
            "catalog": self.catalog,
            "work_id": job.work_id,
            "item_id": job.item_id,
            "target_id": job.target_id,
            "cell_id": job.cell_id,
            "state": state,
            "attempts": 1,
            "run_id": run_id,
            "token": token,
            "lease_until": now_s() + self.lease_s,
            "error": "",
            "item_href": "",
            "seconds": 0.0,
            "created": now_s(),
            "updated": now_s(),
            "unit": job.unit,
            "request_id": job.request_id,
        }

    @property
    def _dialect(self) -> Any:
        return sqlite if self.url.drivername == "sqlite" else postgresql

    def _insert(self) -> Any:
        return self._dialect.insert(work)

    def _held_by(self, lease: Lease) -> Update:
        """Return an update of a unit that is still held under a lease."""
        here = update(work).where(work.c.catalog == self.catalog, work.c.work_id == lease.work_id)
        return here.where(work.c.token == lease.token, work.c.state.in_(HELD))

    def _step(self, lease: Lease, state: State, values: Mapping[str, Any]) -> bool:
        """Take a unit to another state if the lease holds; the same step twice is one step."""
        here = update(work).where(work.c.catalog == self.catalog, work.c.work_id == lease.work_id)
        may = (*leading_to(state), state) if state is not State.SUCCEEDED else (*HELD, state)
        step = here.where(work.c.token == lease.token, work.c.state.in_(may))
        step = step.values({"state": state, "updated": now_s(), **values})
        return self._write(lambda c: c.execute(step).rowcount) == 1

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
