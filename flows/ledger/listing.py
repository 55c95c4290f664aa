"""Reading the ledger: pages of lines, counts, and the lines of known units, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import URL, Engine, Row, Select, and_, func, literal, select, tuple_

from flows.errors import InvalidSettings
from flows.ledger.database import explained, now_s, reading
from flows.ledger.records import Entry
from flows.ledger.schema import work
from flows.ledger.states import HELD, State

_PAGE = 1000
_COLUMNS = (
    work.c.work_id, work.c.item_id, work.c.target_id, work.c.cell_id, work.c.state, work.c.attempts, work.c.run_id,
    work.c.error, work.c.item_href, work.c.seconds, work.c.created, work.c.updated, work.c.lease_until,
)  # fmt: skip


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
    #: The unit as JSON; empty in lines of an older ledger.
    unit: str
    request_id: str


class Listing:
    """The lines of one catalog."""

    def __init__(self, engine: Engine, url: URL, catalog: str) -> None:
        self._engine, self._url, self._catalog = reading(engine), url, catalog

    def page(self, limit: int, *, state: State | None = None, after: str = "") -> Page:
        """Return up to `limit` lines, latest first, after the end of an earlier page.

        Raises:
            InvalidSettings: `after` was not given out by an earlier page.
            LedgerUnavailable: the database does not answer.
        """
        query = self._lines().order_by(work.c.updated.desc(), work.c.work_id.desc()).limit(limit + 1)
        if state is not None:
            query = query.where(work.c.state == state)
        if after:
            query = query.where(tuple_(work.c.updated, work.c.work_id) < tuple_(*map(literal, _position(after))))
        rows = self._fetch(query)
        more = len(rows) > limit
        last = rows[limit - 1] if more else None
        return Page(tuple(_entry(row) for row in rows[:limit]), f"{last.updated!r},{last.work_id}" if last else "")

    def counts(self) -> dict[State, int]:
        """Return how many units are in each state."""
        number = func.count().label("number")
        query = select(work.c.state, number).where(work.c.catalog == self._catalog).group_by(work.c.state)
        found = {State(row.state): int(row.number) for row in self._fetch(query)}
        return {state: found.get(state, 0) for state in State}

    def retries(self) -> int:
        """Return how many attempts there were beyond the first of every unit."""
        here = and_(work.c.catalog == self._catalog, work.c.attempts > 1)
        return int(self._fetch(select(func.coalesce(func.sum(work.c.attempts - 1), 0)).where(here))[0][0])

    def expired(self) -> int:
        """Return how many units are held under a lease that has run out."""
        here = and_(work.c.catalog == self._catalog, work.c.state.in_(HELD), work.c.lease_until < now_s())
        return int(self._fetch(select(func.count()).select_from(work).where(here))[0][0])

    def entry(self, work_id: str) -> Entry | None:
        """Return the line of a unit."""
        return self.holder(work_id)[0]

    def holder(self, work_id: str) -> tuple[Entry | None, str]:
        """Return the line of a unit and the token it is held with."""
        rows = self._fetch(self._lines(work.c.token).where(work.c.work_id == work_id))
        return (_entry(rows[0]), str(rows[0].token)) if rows else (None, "")

    def of(self, work_ids: Sequence[str]) -> dict[str, Entry]:
        """Return the lines of units by work id; those that the ledger does not know are left out."""
        found: dict[str, Entry] = {}
        for first in range(0, len(work_ids), _PAGE // 2):
            some = work_ids[first : first + _PAGE // 2]
            found |= {row.work_id: _entry(row) for row in self._fetch(self._lines().where(work.c.work_id.in_(some)))}
        return found

    def planned(self, states: Sequence[State]) -> Iterator[Planned]:
        """Yield all units in some states with their plans, by work id; the ledger may change meanwhile."""
        query = self._lines(work.c.unit, work.c.request_id).where(work.c.state.in_(states))
        query, last = query.order_by(work.c.work_id).limit(_PAGE), ""
        while rows := self._fetch(query.where(work.c.work_id > last)):
            yield from (Planned(_entry(row), row.unit, row.request_id) for row in rows)
            last = rows[-1].work_id

    def plans_of(self, work_ids: Sequence[str]) -> list[Planned]:
        """Return how some units were planned, in any order; those that the ledger does not know are left out."""
        query = self._lines(work.c.unit, work.c.request_id).where(work.c.work_id.in_(work_ids))
        return [Planned(_entry(row), row.unit, row.request_id) for row in self._fetch(query)]

    def _lines(self, *more: Any) -> Select[Any]:
        now = now_s().label("now")
        return select(*_COLUMNS, now, *more).where(work.c.catalog == self._catalog)

    def _fetch(self, query: Select[Any]) -> Sequence[Row[Any]]:
        with explained(self._url), self._engine.connect() as connection:
            return connection.execute(query).all()


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
            f"--after {after!r} is no end of a page; copy what the page before said under `next`."
        ) from error
