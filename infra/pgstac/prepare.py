"""Prepare a database for the STAC API: pgstac's schema, and two roles with least rights. May be run again at any time.

Reads PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE (an owner who may create roles and extensions), and the passwords
UNVEIL_PUBLISHER_PASSWORD and UNVEIL_READER_PASSWORD. Needs `pip install "pypgstac[psycopg]"` and PostGIS on the server.
"""

from __future__ import annotations

import os
import sys

import psycopg
from psycopg import sql
from pypgstac.db import PgstacDB
from pypgstac.migrate import Migrate

#: Our role, and the role of pgstac that says what it may do.
ROLES = (
    ("unveil_publisher", "pgstac_ingest", "UNVEIL_PUBLISHER_PASSWORD"),
    ("unveil_reader", "pgstac_read", "UNVEIL_READER_PASSWORD"),
)
#: Two that prepare at the same time take turns.
_LOCK = 7_266_417


def main() -> None:
    """Install or migrate pgstac, then make the roles or set their passwords."""
    with psycopg.connect(autocommit=True, connect_timeout=30) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        with PgstacDB() as database:
            version = Migrate(database).run_migration()
        for role, member_of, variable in ROLES:
            make_role(connection, role, member_of, os.environ[variable])
    print(f"pgstac {version}, roles {', '.join(role for role, *_ in ROLES)}")  # noqa: T201 - the one line of a script


def make_role(connection: psycopg.Connection[tuple[object, ...]], role: str, member_of: str, password: str) -> None:
    """Make a role that may log in, do what `member_of` may, and nothing else; set its password."""
    there = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
    verb = sql.SQL("ALTER" if there else "CREATE")
    name = sql.Identifier(role)
    rights = sql.SQL("{} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD {}")
    connection.execute(rights.format(verb, name, sql.Literal(password)))
    connection.execute(sql.SQL("ALTER ROLE {} SET search_path TO pgstac, public").format(name))
    connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(member_of), name))


if __name__ == "__main__":
    try:
        main()
    except KeyError as error:
        sys.exit(f"{error.args[0]} is not set; it is the password of a role.")
    except psycopg.Error as error:
        sys.exit(f"The database cannot be prepared: {str(error).strip().splitlines()[0]}")
