"""Prepare what the services of compose.yaml keep their state in: databases, roles, a bucket. May be run again any time.

Reads PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE (an owner who may create roles and databases), the passwords
UNVEIL_PREFECT_PASSWORD, UNVEIL_MLFLOW_PASSWORD and UNVEIL_LEDGER_PASSWORD, and for the bucket AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_DEFAULT_REGION.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import boto3
import psycopg
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from psycopg import sql

#: Artefacts of MLflow; compose.yaml names it, too.
BUCKET = "unveil-mlflow"
_CONNECT_S, _READ_S = 10, 30


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


def main() -> None:
    """Make what is missing and set the passwords."""
    passwords = {tenant: os.environ[tenant.variable] for tenant in TENANTS}
    with psycopg.connect(autocommit=True, connect_timeout=_CONNECT_S) as connection:
        for tenant, password in passwords.items():
            make_database(connection, tenant, password)
    make_bucket(BUCKET)
    print(f"databases {', '.join(tenant.database for tenant in TENANTS)}; bucket {BUCKET}")  # noqa: T201 - a script


def make_database(connection: psycopg.Connection[tuple[object, ...]], tenant: Tenant, password: str) -> None:
    """Make a role that may log in, and a database that it owns and no other role may enter."""
    role, database = sql.Identifier(tenant.role), sql.Identifier(tenant.database)
    there = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (tenant.role,)).fetchone()
    rights = sql.SQL("{} ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD {}")
    verb = sql.SQL("ALTER" if there else "CREATE")
    connection.execute(rights.format(verb, role, sql.Literal(password)))
    if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (tenant.database,)).fetchone():
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))


def make_bucket(name: str) -> None:
    """Make a bucket where it is missing."""
    client = boto3.client("s3", config=Config(connect_timeout=_CONNECT_S, read_timeout=_READ_S))
    if name not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=name)


if __name__ == "__main__":
    try:
        main()
    except KeyError as error:
        sys.exit(f"{error.args[0]} is not set; it is the password of a role.")
    except psycopg.Error as error:
        sys.exit(f"The databases cannot be prepared: {(str(error).strip() or type(error).__name__).splitlines()[0]}")
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"The bucket {BUCKET} cannot be prepared: {error}")
