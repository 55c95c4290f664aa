"""infra/compose: the roles of its databases, backup and restore, and all of it rehearsed in the image's own root."""

from __future__ import annotations

import os
import runpy
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.command import ROOT, TINY_BBOX, TINY_SETTINGS, unveil
from tests.installed import Needed, require
from tests.support.postgres import Postgres, cluster, programs

PREPARE = ROOT / "infra" / "image" / "prepare.py"
_TOOLS = ("debootstrap", "ip", "unshare", "setpriv", "prometheus", "pg_isready", "curl")


@pytest.mark.integration
def test_each_role_enters_its_own_database_only(postgres: Postgres) -> None:
    module = runpy.run_path(str(PREPARE), run_name="prepare")
    homes = {each.role: each.database for each in module["TENANTS"]} | {
        role: "stac" for role, *_ in module["STAC_ROLES"]
    }
    variables = [each.variable for each in module["TENANTS"]] + [variable for *_, variable in module["STAC_ROLES"]]
    passwords = {variable: secrets.token_hex(8) for variable in variables}
    owner = postgres.client(postgres.user, postgres.password, "postgres")
    for _ in range(2):  # it may be run again
        done = subprocess.run(
            [sys.executable, str(PREPARE)],
            env=os.environ | owner | passwords,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("database prefect; database mlflow; database ledger; pgstac ")
    for (role, home), variable in zip(homes.items(), variables, strict=True):
        for database in {*homes.values(), "postgres"}:
            login = {"host": postgres.host, "port": postgres.port, "user": role, "dbname": database}
            try:
                psycopg.connect(**login, password=passwords[variable], connect_timeout=10).close()
                entered = True
            except psycopg.OperationalError as error:
                assert "permission denied for database" in str(error)
                entered = False
            assert entered == (database in (home, "postgres")), (role, database)


@pytest.mark.thorough
@pytest.mark.integration
@pytest.mark.timeout(3600)
def test_the_stack_is_rehearsed_in_the_root_of_its_image(tmp_path: Path) -> None:
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"a rehearsal needs root and {', '.join(missing) or 'nothing else'}")
    # A process of its own: it makes namespaces, and ends what it starts.
    done = subprocess.run(
        [sys.executable, "-m", "tests.rehearsal"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "stopped: " in done.stdout and "secrets: none of " in done.stdout


_PASSWORDS = ("PREFECT", "MLFLOW", "LEDGER", "PUBLISHER", "READER")
#: What a dump with --clean says of the owner who restores it, and of what a new server has not.
_EXPECTED = ("current user cannot be dropped", 'role "{owner}" already exists', "cannot drop the currently open")


def program(name: str) -> Path:
    """Return the path of a client of PostgreSQL; they lie beside the server's programs."""
    found = programs()
    assert found is not None
    return (found / "initdb").resolve().parent / name


@pytest.mark.slow
@pytest.mark.integration
def test_a_run_finds_everything_done_after_a_restore(tmp_path: Path) -> None:
    require(Needed.POSTGRESQL)
    passwords = {f"UNVEIL_{name}_PASSWORD": secrets.token_hex(8) for name in _PASSWORDS}
    first, copy = tmp_path / "first", tmp_path / "copy"
    with cluster() as server:
        owner = prepare(server, server.password, passwords)
        made = run(first, server, passwords)
        assert made["run_id"] and [unit["state"] for unit in made["units"]] == ["SUCCEEDED"], made
        items = searched(server, passwords)
        assert len(items) == 1
        dump, password = tmp_path / "databases.sql", server.password
        with dump.open("wb") as out:
            command = [program("pg_dumpall"), "--clean", "--if-exists", "--exclude-database=stac"]
            subprocess.run(command, env=os.environ | owner, stdout=out, check=True, timeout=120)
        shutil.copytree(first, copy, symlinks=True)
    shutil.rmtree(first)

    copy.rename(first)
    with cluster() as server:
        restore(server, password, dump)
        # The index is made anew, as a dump of pgstac cannot be restored: its functions need a search path.
        prepare(server, password, passwords)
        again = run(first, server, passwords)
        # Nothing is left to do, by the catalog and by the ledger.
        assert not again["run_id"] and len(again["already_done"]) == 1, again
        unveil_publish(first, server, passwords)
        assert searched(server, passwords) == items
        # The roles have their passwords, and their databases alone.
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            connected(server, passwords, "ledger")


def run(folder: Path, server: Postgres, passwords: dict[str, str]) -> dict[str, Any]:
    """Run the flow on a corner of the sample, with ledger and index on the server."""
    ledger = f"postgresql://unveil_ledger@{server.host}:{server.port}/ledger"
    settings = TINY_SETTINGS | {
        "UNVEIL_LEDGER_URL": ledger,
        "UNVEIL_INDEXES": index_of(server, passwords),
        "UNVEIL_STATE_DIR": str(folder / "state"),
        "PGPASSWORD": passwords["UNVEIL_LEDGER_PASSWORD"],
    }
    where = ["--out", folder / "catalog", "--bbox", TINY_BBOX, "--datetime", "2023-08-18", "--json"]
    outcome = unveil("run", *where, home=folder / "home", extra=settings)
    assert outcome.status == 0, outcome.err
    return dict(outcome.document)


def prepare(server: Postgres, password: str, passwords: dict[str, str]) -> dict[str, str]:
    """Make databases, roles and pgstac; return the environment of the owner's clients."""
    owner = server.client(server.user, password, "postgres")
    command = [sys.executable, str(ROOT / "infra/image/prepare.py")]
    subprocess.run(command, env=os.environ | owner | passwords, check=True, capture_output=True, timeout=120)
    return owner


def index_of(server: Postgres, passwords: dict[str, str]) -> str:
    """Return the address of the index, as the role that writes."""
    return f"postgresql://unveil_publisher:{passwords['UNVEIL_PUBLISHER_PASSWORD']}@{server.host}:{server.port}/stac"


def unveil_publish(folder: Path, server: Postgres, passwords: dict[str, str]) -> None:
    """Fill the index from the catalog."""
    given = {"UNVEIL_INDEXES": index_of(server, passwords), "UNVEIL_STATE_DIR": str(folder / "state")}
    outcome = unveil("publish", "--out", folder / "catalog", "--again", home=folder / "home", extra=given)
    assert outcome.status == 0, outcome.err


def searched(server: Postgres, passwords: dict[str, str]) -> list[tuple[str, object]]:
    """Return id and content of all items that a search finds as the reader."""
    with connected(server, passwords, "stac") as connection:
        found = connection.execute("SELECT search('{}')").fetchone()
    assert found is not None
    return [(feature["id"], feature) for feature in found[0]["features"]]


def connected(server: Postgres, passwords: dict[str, str], database: str) -> psycopg.Connection[tuple[Any, ...]]:
    """Return a connection of the role that searches."""
    password = passwords["UNVEIL_READER_PASSWORD"]
    return psycopg.connect(host=server.host, port=server.port, user="unveil_reader", password=password, dbname=database)


def restore(server: Postgres, password: str, dump: Path) -> None:
    """Feed the dump to another server; nothing may fail but what is about its owner.

    The owner has the password of the first server, as the `.env` that belongs to the dump says: the dump sets it, and
    psql connects anew for each database.
    """
    owner = server.client(server.user, server.password, "postgres")
    command = [program("psql"), "--quiet", "--no-psqlrc"]
    change = [*command, "--command", f"ALTER ROLE {server.user} PASSWORD '{password}'"]
    subprocess.run(change, env=os.environ | owner, check=True, timeout=60)
    with dump.open("rb") as text:
        done = subprocess.run(
            command, env=os.environ | owner | {"PGPASSWORD": password}, stdin=text, capture_output=True, timeout=300
        )
    errors = [line for line in done.stderr.decode().splitlines() if "error" in line.lower()]
    expected = [each.format(owner=server.user) for each in _EXPECTED]
    assert not [line for line in errors if not any(each in line for each in expected)], errors
    assert done.returncode == 0
