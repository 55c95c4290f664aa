"""Tables of the ledger and how an older one is brought up to date."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    Column,
    Connection,
    Double,
    Engine,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    func,
    insert,
    inspect,
    select,
    text,
)

from flows.errors import LedgerTooNew

#: 1 was SQLite only: one table without leases. 2 knows leases, catalogs and requests.
VERSION = 2
#: Any number that no other program takes for its lock in the same database.
_LOCK = 7_041_889_231

metadata = MetaData()

version = Table("ledger_version", metadata, Column("version", Integer, nullable=False))

#: Settings and model of a run, once however many units share them.
request = Table("request", metadata, Column("id", Text, primary_key=True), Column("document", Text, nullable=False))

work = Table(
    "work",
    metadata,
    # One ledger may serve several catalogs; the same work can be published in each.
    Column("catalog", Text, primary_key=True),
    Column("work_id", Text, primary_key=True),
    Column("item_id", Text, nullable=False),
    Column("target_id", Text, nullable=False),
    Column("cell_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("token", Text, nullable=False),
    # Instants are seconds since 1970, UTC, by the clock of the database.
    Column("lease_until", Double, nullable=False),
    Column("error", Text, nullable=False),
    Column("item_href", Text, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("created", Double, nullable=False),
    Column("updated", Double, nullable=False),
    Column("unit", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Index("work_by_time", "catalog", "updated", "work_id"),
    Index("work_by_state", "catalog", "state", "updated", "work_id"),
    Index("work_by_run", "run_id", "state"),
)


def prepare(engine: Engine, catalog: str) -> None:
    """Create the tables, or bring those of an older version up to date; nothing of them is lost.

    Args:
        engine: the database.
        catalog: lines of version 1, which did not name one, become lines of this catalog.

    Raises:
        LedgerTooNew: a newer version of this software made the ledger.
    """
    with engine.connect() as connection:
        found = _version(connection)
    if found != VERSION:
        with engine.begin() as connection:
            _only_one(connection)
            # Another process may have done it while we waited.
            _bring_up(connection, _version(connection), catalog)


def _bring_up(connection: Connection, found: int, catalog: str) -> None:
    if found > VERSION:
        raise LedgerTooNew(
            f"The ledger is of version {found}, this software knows {VERSION}; update unveil-eo or name another one."
        )
    if found == VERSION:
        return
    if found == 1:
        connection.execute(text("ALTER TABLE work RENAME TO work_version_1"))
    metadata.create_all(connection)
    if found == 1:
        _copy_version_1(connection, catalog)
    connection.execute(insert(version).values(version=VERSION))


def _version(connection: Connection) -> int:
    """Return the version of the tables that are there; 0 without any."""
    tables = inspect(connection)
    if tables.has_table(version.name):
        return int(connection.execute(select(func.max(version.c.version))).scalar() or 0)
    return 1 if tables.has_table(work.name) else 0


def _only_one(connection: Connection) -> None:
    """Keep other processes out until the transaction ends; SQLite's transaction does so by itself."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))


def _copy_version_1(connection: Connection, catalog: str) -> None:
    """Copy the lines of version 1; what was RUNNING has no lease, so the next run may take it."""
    names = ("work_id", "item_id", "target_id", "state", "attempts", "run_id", "error", "item_href", "seconds")
    empty = {"catalog": catalog, "cell_id": "", "token": "", "lease_until": 0.0, "unit": "", "request_id": ""}
    rows = connection.execute(text(f"SELECT {', '.join(names)}, updated FROM work_version_1"))  # noqa: S608 - constants
    for page in rows.mappings().partitions(1000):
        values = []
        for row in page:
            instant = datetime.fromisoformat(row["updated"]).timestamp()
            values.append({name: row[name] for name in names} | empty | {"created": instant, "updated": instant})
        connection.execute(insert(work), values)
    connection.execute(text("DROP TABLE work_version_1"))
