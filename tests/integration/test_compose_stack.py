"""infra/compose: the roles that its databases get, and the whole of it rehearsed in the image's own root."""

from __future__ import annotations

import os
import runpy
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.command import ROOT
from tests.support.postgres import Postgres

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
