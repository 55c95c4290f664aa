"""The statements that change a ledger, built once: building them anew costs more than the database takes for them.

Parameters are named like columns where they set one; the others are `held_token`, `again`, `may` and `dead_token`.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Dialect, Update, and_, bindparam, case, or_, update
from sqlalchemy.dialects import postgresql, sqlite

from flows.ledger.database import now_s
from flows.ledger.schema import work
from flows.ledger.states import HELD, State

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
    answer was lost on the way, and what is held under `dead_token`.
    """
    ours = work.c.token == bindparam("token")
    free = or_(work.c.state.in_(bindparam("again", expanding=True)), _expired(), ours, _held_by_dead())
    insert = _insert(dialect, lease_until=_lease())
    changed = {column.name: insert.excluded[column.name] for column in work.c if column.name not in _KEPT}
    attempts = case((ours, work.c.attempts), else_=work.c.attempts + 1)
    return (
        insert.on_conflict_do_update(index_elements=_KEY, set_=changed | {"attempts": attempts}, where=free)
        .returning(work.c.attempts)
        .compile(dialect=dialect)
    )


@lru_cache(_DIALECTS)
def settle(dialect: Dialect) -> Any:
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
    told: dict[str, Any] = {name: bindparam(name) for name in ("error", "item_href", "seconds")}
    return _step().values(lease_until=0.0, **told)


@cache
def abort() -> Update:
    """Mark what a run left unfinished."""
    left = update(work).where(work.c.run_id == bindparam("left_by"), work.c.state.in_(HELD))
    return left.values(state=State.ABORTED, error="the run was stopped", lease_until=0.0, updated=now_s())


def _insert(dialect: Dialect, lease_until: Any) -> Any:
    told: dict[str, Any] = {column.name: bindparam(column.name) for column in work.c if column.name not in _BY_CLOCK}
    return insert_for(dialect, work).values(told | {"lease_until": lease_until, "created": now_s(), "updated": now_s()})


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
    # The empty token is that of units which nobody ever claimed.
    return and_(work.c.token == bindparam("dead_token"), work.c.token != "")
