"""The ledger's database: engine, statements, listings."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Dialect,
    Double,
    Engine,
    Row,
    Select,
    Update,
    and_,
    bindparam,
    case,
    create_engine,
    event,
    func,
    literal,
    make_url,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.dml import ReturningUpdate
from sqlalchemy.sql.functions import GenericFunction
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from flows.errors import FlowError, InvalidSettings, LedgerUnavailable
from flows.ledger.schema import HELD, Entry, State, work
from stac.errors import PublishError
from stac.io.files import private_state

#: Seconds that a process waits for others to finish writing, and for a server to accept a connection.
_BUSY_TIMEOUT_S = 30
_CONNECT_TIMEOUT_S = 10
_POSTGRES = "postgresql+psycopg"


class now_s(GenericFunction[float]):  # noqa: N801 - a function of SQL
    """Seconds since 1970 by the clock of the database: all hosts that share a ledger agree on it."""

    type = Double()
    inherit_cache = True


@compiles(now_s, "sqlite")
def _now_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now_s, "postgresql")
def _now_postgres(*_: Any, **__: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


def parse_url(text: str) -> URL:
    """Return the URL of a ledger, with our driver.

    Raises:
        InvalidSettings: it is none, or of a database that is not supported. Nothing of the text is shown.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # Without the cause: it repeats the text, password and all.
        raise InvalidSettings(_WANTED) from None
    if url.drivername in ("postgresql", _POSTGRES):
        return url.set(drivername=_POSTGRES)
    if url.drivername == "sqlite" and url.database:
        return url
    raise InvalidSettings(_WANTED)


_WANTED = (
    "ledger_url is not the URL of a ledger; write postgresql+psycopg://USER@HOST/DATABASE or sqlite:////PATH/ledger.db."
)


def open_engine(url: URL) -> Engine:
    """Return the engine of a ledger; nothing is connected yet.

    Raises:
        FlowError: the folder of the file cannot be made.
    """
    return _open_file(url) if url.drivername == "sqlite" else _open_server(url)


def _open_file(url: URL) -> Engine:
    path = Path(str(url.database))
    try:
        private_state(path.parent)
    except PublishError as error:
        raise FlowError(_cannot_open(url, str(error))) from error
    # Kept connections: closing the last one folds the write-ahead log back, which is slower than the work.
    engine = create_engine(url, pool_size=2, max_overflow=3, connect_args={"timeout": _BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: Any, _record: object) -> None:
    # Transactions are ours to begin: the driver begins them late and not at all for tables.
    connection.isolation_level = None
    connection.execute("PRAGMA synchronous=NORMAL")
    # Two that turn a new file to this mode at once are refused without waiting.
    for attempt in Retrying(
        stop=stop_after_delay(_BUSY_TIMEOUT_S),
        wait=wait_random(0.01, 0.1),
        retry=retry_if_exception(_is_busy),
        reraise=True,
    ):
        with attempt:
            connection.execute("PRAGMA journal_mode=WAL")


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_BUSY


def _on_begin(connection: Connection) -> None:
    reading = connection.get_execution_options().get("unveil_reading", False)
    # A write lock from the start: one that is asked for half-way is refused without waiting.
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _open_server(url: URL) -> Engine:
    arguments: dict[str, Any] = {"connect_timeout": _CONNECT_TIMEOUT_S, "application_name": "unveil"}
    if "options" not in url.query:
        arguments["options"] = f"-c lock_timeout={_BUSY_TIMEOUT_S * 1000}"
    return create_engine(url, pool_size=2, max_overflow=3, pool_pre_ping=True, connect_args=arguments)


def reading(engine: Engine) -> Engine:
    """Return the engine for reading alone: it never waits for writers."""
    return engine.execution_options(unveil_reading=True)


@contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turn what the database says into one sentence of ours.

    Raises:
        LedgerUnavailable: the server does not answer, or the file is locked or broken.
    """
    try:
        yield
    except (DBAPIError, NoSuchModuleError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise LedgerUnavailable(_cannot_open(url, _without_password(reason, url))) from error
    except SQLAlchemyError as error:
        raise LedgerUnavailable(_cannot_open(url, type(error).__name__)) from error


def _cannot_open(url: URL, reason: str) -> str:
    remedy = "check the folder or name another --state-dir" if url.drivername == "sqlite" else "check UNVEIL_LEDGER_URL"
    return f"The ledger {shown(url)} cannot be used ({reason}); {remedy}."


def shown(url: URL) -> str:
    """Return the ledger's place for people: the path of the file, or the URL without password and options."""
    if url.drivername == "sqlite":
        return str(url.database)
    return url.set(query={}).render_as_string(hide_password=True)


def _without_password(text: str, url: URL) -> str:
    return text.replace(str(url.password), "***") if url.password else text


#: SQLAlchemy compiles inserts with ON CONFLICT anew at every call; compiled ones are kept for so many databases.
_DIALECTS = 8
#: Columns that the database fills in by its own clock.
_BY_CLOCK = {"lease_until", "created", "updated"}
#: What a unit keeps when it is claimed once more.
_KEPT = {"catalog", "work_id", "created", "attempts"}
_KEY = (work.c.catalog, work.c.work_id)


def insert_for(dialect: Dialect, table: Any) -> Any:
    """Return an insert that knows ON CONFLICT, for SQLite or PostgreSQL."""
    return (sqlite if dialect.name == "sqlite" else postgresql).insert(table)


@lru_cache(_DIALECTS)
def claim(dialect: Dialect) -> Any:
    """Insert a unit or take one that is free; returns the attempt.

    Free is what has ended in a state of `again`, what is held under a lease that has run out, our own claim, whose
    answer was lost on the way, what an earlier execution of the same run holds, which is taken for lost, and what is
    held under `dead_token`. An attempt is one of a run, however often the run's task is executed.
    """
    ours = work.c.token == bindparam("token")
    same_run = work.c.run_id == bindparam("run_id")
    free = or_(
        work.c.state.in_(bindparam("again", expanding=True)),
        _expired(),
        ours,
        and_(same_run, work.c.state.in_(HELD)),
        _held_by_dead(),
    )
    insert = _insert(dialect, lease_until=_lease())
    changed = {column.name: insert.excluded[column.name] for column in work.c if column.name not in _KEPT}
    attempts = case((or_(ours, same_run), work.c.attempts), else_=work.c.attempts + 1)
    return (
        insert.on_conflict_do_update(index_elements=_KEY, set_=changed | {"attempts": attempts}, where=free)
        .returning(work.c.attempts)
        .compile(dialect=dialect)
    )


@lru_cache(_DIALECTS)
def record_published(dialect: Dialect) -> Any:
    """Record a unit as published unless a living run holds it; returns its id where that changed it."""
    free = or_(work.c.state.not_in(HELD), work.c.lease_until < now_s(), _held_by_dead())
    changed = {"state": State.SUCCEEDED, "item_href": bindparam("item_href"), "error": "", "lease_until": 0.0}
    return (
        _insert(dialect, lease_until=0.0)
        .on_conflict_do_update(
            index_elements=_KEY,
            set_=changed | {"updated": now_s()},
            where=and_(work.c.state != State.SUCCEEDED, free),
        )
        .returning(work.c.work_id)
        .compile(dialect=dialect)
    )


@cache
def renew() -> Update:
    """Renew the lease of a unit that is held under `held_token`."""
    return _leased().where(work.c.state.in_(HELD)).values(lease_until=_lease())


@cache
def start() -> Update:
    """Take a unit that is held under `held_token` to RUNNING, from a state of `may`."""
    return _step().values(lease_until=_lease())


@cache
def finish() -> Update:
    """Take a unit that is held under `held_token` to its end, from a state of `may`."""
    given: dict[str, Any] = {name: bindparam(name) for name in ("error", "item_href", "seconds")}
    return _step().values(lease_until=0.0, **given)


@cache
def abort() -> ReturningUpdate[tuple[str]]:
    """Mark what a run left unfinished; returns the ids of the units."""
    left = update(work).where(work.c.run_id == bindparam("left_by"), work.c.state.in_(HELD))
    ended = left.values(state=State.ABORTED, error="the run was stopped", lease_until=0.0, updated=now_s())
    return ended.returning(work.c.work_id)


def _insert(dialect: Dialect, lease_until: Any) -> Any:
    given: dict[str, Any] = {column.name: bindparam(column.name) for column in work.c if column.name not in _BY_CLOCK}
    return insert_for(dialect, work).values(
        given | {"lease_until": lease_until, "created": now_s(), "updated": now_s()}
    )


def _leased() -> Update:
    here = work.c.catalog == bindparam("in_catalog"), work.c.work_id == bindparam("of_work")
    return update(work).where(*here, work.c.token == bindparam("held_token"))


def _step() -> Update:
    step = _leased().where(work.c.state.in_(bindparam("may", expanding=True)))
    return step.values(state=bindparam("to_state"), updated=now_s())


def _lease() -> ColumnElement[float]:
    return now_s() + bindparam("lease_s")


def _expired() -> ColumnElement[bool]:
    return and_(work.c.state.in_(HELD), work.c.lease_until < now_s())


def _held_by_dead() -> ColumnElement[bool]:
    # The empty token is that of units which were never claimed.
    return and_(work.c.token == bindparam("dead_token"), work.c.token != "")


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
            f"--after {after!r} is not the end of a page; copy what the page before said under `next`."
        ) from error
