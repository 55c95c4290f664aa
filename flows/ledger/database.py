"""The ledger's database: SQLite or PostgreSQL, its tables, and its errors in one sentence."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, TextClause, bindparam, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from flows.errors import FlowError, InvalidSettings, LedgerUnavailable
from stac.errors import PublishError
from stac.io.files import private_state

#: Of the tables.
VERSION = 2
TABLES = (
    "CREATE TABLE ledger_version (version INTEGER NOT NULL)",
    # Settings and model of a run, once however many units share them.
    "CREATE TABLE request (id TEXT PRIMARY KEY, document TEXT NOT NULL)",
    # One ledger may serve several catalogs: the same work can be published in each. Instants are seconds since 1970.
    """
    CREATE TABLE work (
        catalog TEXT NOT NULL, work_id TEXT NOT NULL, item_id TEXT NOT NULL, target_id TEXT NOT NULL,
        cell_id TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL, run_id TEXT NOT NULL,
        token TEXT NOT NULL, lease_until DOUBLE PRECISION NOT NULL, error TEXT NOT NULL, item_href TEXT NOT NULL,
        seconds DOUBLE PRECISION NOT NULL, created DOUBLE PRECISION NOT NULL, updated DOUBLE PRECISION NOT NULL,
        unit TEXT NOT NULL, request_id TEXT NOT NULL, PRIMARY KEY (catalog, work_id)
    )
    """,
    "CREATE INDEX work_by_time ON work (catalog, updated, work_id)",
    "CREATE INDEX work_by_state ON work (catalog, state, updated, work_id)",
    "CREATE INDEX work_by_run ON work (run_id, state)",
)
#: Insert a unit or take one that is free; returns the attempt. Free is what has ended in a state of `again`, what is
#: held under a lease that has run out, our own claim, whose answer was lost on the way, what an earlier execution of
#: the same run holds, which is taken for lost, and what is held under `dead_token`; the empty token is that of units
#: which were never claimed. An attempt is one of a run, however often the run's task is executed.
CLAIM = """
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
PUBLISHED = """
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
RENEW = """
    UPDATE work SET lease_until = now_s() + :lease_s
    WHERE catalog = :catalog AND work_id = :work_id AND token = :token AND state IN ('CLAIMED', 'RUNNING')
    RETURNING work_id
"""
START = """
    UPDATE work SET state = 'RUNNING', updated = now_s(), lease_until = now_s() + :lease_s
    WHERE catalog = :catalog AND work_id = :work_id AND token = :token AND state IN ('CLAIMED', 'RUNNING')
    RETURNING work_id
"""
FINISH = """
    UPDATE work SET state = :state, updated = now_s(), lease_until = 0, error = :error, item_href = :item_href,
        seconds = :seconds
    WHERE catalog = :catalog AND work_id = :work_id AND token = :token
        AND (state IN ('CLAIMED', 'RUNNING') OR state = :state)
    RETURNING work_id
"""
ABORT = """
    UPDATE work SET state = 'ABORTED', error = 'the run was stopped', lease_until = 0, updated = now_s()
    WHERE run_id = :run_id AND state IN ('CLAIMED', 'RUNNING')
    RETURNING work_id
"""
REMEMBER = "INSERT INTO request (id, document) VALUES (:id, :document) ON CONFLICT DO NOTHING RETURNING id"
LINES = """
    SELECT work_id, item_id, target_id, cell_id, state, attempts, run_id, error, item_href, seconds, created, updated,
        lease_until, token, now_s() AS now
    FROM work WHERE catalog = :catalog
"""
PLANS = "SELECT *, now_s() AS now FROM work WHERE catalog = :catalog"
COUNTS = "SELECT state, count(*) AS number FROM work WHERE catalog = :catalog GROUP BY state"
RETRIES = "SELECT coalesce(sum(attempts - 1), 0) FROM work WHERE catalog = :catalog AND attempts > 1"
EXPIRED = """
    SELECT count(*) FROM work
    WHERE catalog = :catalog AND state IN ('CLAIMED', 'RUNNING') AND lease_until < now_s()
"""

#: The clock of the database, seconds since 1970: all hosts that share a ledger agree on it.
_CLOCKS = {
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) AS double precision)",
}
#: Parameters that are lists.
_LISTS = ("again", "states", "work_ids")
#: Seconds that a process waits for others to finish writing, and for a server to accept a connection.
_BUSY_TIMEOUT_S = 30
_CONNECT_TIMEOUT_S = 10
_POSTGRES = "postgresql+psycopg"
_WANTED = (
    "ledger_url is not the URL of a ledger; write postgresql+psycopg://USER@HOST/DATABASE or sqlite:////PATH/ledger.db."
)
#: Key of the advisory lock; must be unique in the database.
_LOCK = 7_041_889_231


@lru_cache(maxsize=100)
def statement(dialect: str, sql: str) -> TextClause:
    """Return a statement in the words of a database; `now_s()` is its clock."""
    lists: list[Any] = [bindparam(name, expanding=True) for name in _LISTS if f":{name}" in sql]
    return text(sql.replace("now_s()", _CLOCKS[dialect])).bindparams(*lists)


def parse_url(address: str) -> URL:
    """Return the URL of a ledger, with our driver.

    Raises:
        InvalidSettings: it is none, or of a database that is not supported. Nothing of the text is shown.
    """
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        # Without the cause: it repeats the text, password and all.
        raise InvalidSettings(_WANTED) from None
    if url.drivername in ("postgresql", _POSTGRES):
        return url.set(drivername=_POSTGRES)
    if url.drivername == "sqlite" and url.database:
        return url
    raise InvalidSettings(_WANTED)


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


def _without_password(reason: str, url: URL) -> str:
    return reason.replace(str(url.password), "***") if url.password else reason


def prepare(engine: Engine) -> None:
    """Create the tables where they are missing.

    Raises:
        LedgerUnavailable: another version of this software made the ledger.
    """
    with engine.connect() as connection:
        found = _version(connection)
    if found is None:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":  # SQLite's transaction keeps others out by itself
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            # Another process may have done it while we waited.
            found = _version(connection)
            if found is None:
                for table in TABLES:
                    connection.execute(text(table))
                connection.execute(text("INSERT INTO ledger_version (version) VALUES (:version)"), {"version": VERSION})
                return
    if found != VERSION:
        raise LedgerUnavailable(
            f"The ledger is of version {found}, this software knows {VERSION}; update unveil-eo or name another ledger."
        )


def _version(connection: Connection) -> int | None:
    """Return the version of the tables that are there, None without any."""
    if not inspect(connection).has_table("ledger_version"):
        return None
    return int(connection.execute(text("SELECT max(version) FROM ledger_version")).scalar() or 0)
