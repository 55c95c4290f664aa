"""The SQL of the ledger, one statement for every step; the same on SQLite and PostgreSQL."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sqlalchemy import TextClause, bindparam, text

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


@lru_cache(maxsize=100)
def statement(dialect: str, sql: str) -> TextClause:
    """Return a statement in the words of a database; `now_s()` is its clock."""
    lists: list[Any] = [bindparam(name, expanding=True) for name in _LISTS if f":{name}" in sql]
    return text(sql.replace("now_s()", _CLOCKS[dialect])).bindparams(*lists)
