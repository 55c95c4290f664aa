"""Ledgers to test with, on every database that is supported."""

from __future__ import annotations

from sqlalchemy import URL, create_engine, text
from sqlalchemy.pool import NullPool

from flows.ledger.schema import Job, Lease
from flows.ledger.store import Ledger

CATALOG = "catalog"


def job(name: str = "w") -> Job:
    return Job(work_id=name, item_id=f"{name}-item", target_id=f"{name}-target", cell_id="cell", unit="{}")


def claimed(ledger: Ledger, name: str, run_id: str) -> Lease:
    lease = ledger.claim(job(name), run_id)
    assert isinstance(lease, Lease), lease
    return lease


def execute(url: URL, statement: str) -> None:
    """Change the database behind the ledger's back."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(statement))


def expire(ledger: Ledger, work_id: str) -> None:
    """Let a lease run out, as if its holder had stood still for a day."""
    execute(ledger.url, f"UPDATE work SET lease_until = lease_until - 86400 WHERE work_id = '{work_id}'")  # noqa: S608
