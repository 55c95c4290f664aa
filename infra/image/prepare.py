"""Prepare what the services keep their state in: databases, roles, pgstac, a bucket. May be run again.

Reads PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE: an owner who may create roles, databases and extensions. Each part
is prepared when its password is set: UNVEIL_PREFECT_PASSWORD, UNVEIL_MLFLOW_PASSWORD, UNVEIL_LEDGER_PASSWORD for a
database of each, UNVEIL_PUBLISHER_PASSWORD and UNVEIL_READER_PASSWORD for pgstac in the database UNVEIL_STAC_DATABASE
(`stac`), AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and AWS_DEFAULT_REGION for MLflow's bucket.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import psycopg
from psycopg import sql

#: Artefacts of MLflow; compose.yaml names it, too.
BUCKET = "unveil-mlflow"
_CONNECT_S, _READ_S = 10, 30
#: Two that prepare at the same time take turns.
_LOCK = 7_266_417

Connection = psycopg.Connection[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Tenant:
    """A database, the role that owns it, and the variable with the role's password."""

    database: str
    role: str
    variable: str


TENANTS = (
    Tenant("prefect", "unveil_prefect", "UNVEIL_PREFECT_PASSWORD"),
    Tenant("mlflow", "unveil_mlflow", "UNVEIL_MLFLOW_PASSWORD"),
    Tenant("ledger", "unveil_ledger", "UNVEIL_LEDGER_PASSWORD"),
)
#: Roles of the STAC API, and the role of pgstac that says what each may do.
STAC_ROLES = (
    ("unveil_publisher", "pgstac_ingest", "UNVEIL_PUBLISHER_PASSWORD"),
    ("unveil_reader", "pgstac_read", "UNVEIL_READER_PASSWORD"),
)


def main() -> None:
    """Make what is missing and set the passwords."""
    done = []
    with psycopg.connect(autocommit=True, connect_timeout=_CONNECT_S) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        for tenant in TENANTS:
            if password := os.environ.get(tenant.variable):
                make_role(connection, tenant.role, password)
                make_database(connection, tenant.database, tenant.role)
                done.append(f"database {tenant.database}")
        if any(os.environ.get(variable) for *_, variable in STAC_ROLES):
            done.append(f"pgstac {prepare_stac(connection, os.environ.get('UNVEIL_STAC_DATABASE', 'stac'))}")
    if os.environ.get("AWS_ENDPOINT_URL"):
        make_bucket(BUCKET)
        done.append(f"bucket {BUCKET}")
    print("; ".join(done))  # noqa: T201 - a script


def make_role(connection: Connection, name: str, password: str) -> None:
    """Make a role that may log in and nothing else, or set its password."""
    there = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone()
    rights = sql.SQL("{} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD {}")
    verb = sql.SQL("ALTER" if there else "CREATE")
    connection.execute(rights.format(verb, sql.Identifier(name), sql.Literal(password)))


def make_database(connection: Connection, name: str, owner: str | None = None) -> None:
    """Make a database that only its owner may enter."""
    database = sql.Identifier(name)
    if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
        owned = sql.SQL(" OWNER {}").format(sql.Identifier(owner)) if owner else sql.SQL("")
        connection.execute(sql.SQL("CREATE DATABASE {}").format(database) + owned)
    connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(database))


def prepare_stac(connection: Connection, database: str) -> str:
    """Install or migrate pgstac, make the two roles that may enter its database, and return pgstac's version."""
    from pypgstac.db import PgstacDB
    from pypgstac.migrate import Migrate

    make_database(connection, database)
    os.environ["PGDATABASE"] = database
    with PgstacDB() as pgstac:
        version = str(Migrate(pgstac).run_migration())
    with psycopg.connect(autocommit=True, connect_timeout=_CONNECT_S) as inside:
        for role, member_of, variable in STAC_ROLES:
            make_role(inside, role, os.environ[variable])
            name = sql.Identifier(role)
            inside.execute(sql.SQL("ALTER ROLE {} SET search_path TO pgstac, public").format(name))
            inside.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(member_of), name))
            inside.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(database), name))
    return version


def make_bucket(name: str) -> None:
    """Make a bucket where it is missing."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client("s3", config=Config(connect_timeout=_CONNECT_S, read_timeout=_READ_S))
    try:
        if name not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=name)
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"The bucket {name} cannot be prepared: {error}")


if __name__ == "__main__":
    try:
        main()
    except KeyError as error:
        sys.exit(f"{error.args[0]} is not set; it is the password of a role.")
    except psycopg.Error as error:
        sys.exit(f"The databases cannot be prepared: {(str(error).strip() or type(error).__name__).splitlines()[0]}")
