"""A private STAC API on loopback: PostgreSQL with pgstac, and stac-fastapi-pgstac with transactions."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from flows.services.process import free_port
from tests.support.postgres import Postgres, cluster

DATABASE = "stac"
_PREPARE = Path(__file__).resolve().parents[2] / "infra" / "image" / "prepare.py"
_APP = "flows.services.gate:transactions_api"
_TIMEOUT_S = 120
_POLL_S = 0.1
#: Roles that infra/image/prepare.py makes: one writes items, the other one searches.
PUBLISHER, READER = "unveil_publisher", "unveil_reader"


@dataclass(frozen=True, slots=True)
class Service:
    """Where the service is."""

    #: Landing page of the API.
    api: str
    server: Postgres
    #: Passwords of the role that publishes, and of the one that searches.
    password: str = field(repr=False)
    reader_password: str = field(repr=False)
    #: What the API asks for, UNVEIL_INDEX_TOKEN.
    token: str = field(repr=False)

    @property
    def database(self) -> str:
        """Address of the database, without the password."""
        return f"postgresql://{PUBLISHER}@{self.server.host}:{self.server.port}/{DATABASE}"

    @property
    def dsn(self) -> str:
        """Address of the database, password included."""
        return self.database.replace("@", f":{self.password}@")


@contextmanager
def service(settings: Mapping[str, str] | None = None) -> Iterator[Service]:
    """Have database and API while the context is open.

    Args:
        settings: of PostgreSQL, above its defaults; fast and forgetful ones when left out.
    """
    publisher, reader, token = (secrets.token_hex(16) for _ in range(3))
    with cluster(settings) as server:
        _prepare(server, publisher, reader)
        url = f"http://127.0.0.1:{(port := free_port())}"
        variables = server.client(PUBLISHER, publisher, DATABASE) | {
            "UNVEIL_INDEX_TOKEN": token,
            "ENABLE_TRANSACTIONS_EXTENSIONS": "TRUE",
            "STAC_FASTAPI_TITLE": "Unveil",
            "STAC_FASTAPI_DESCRIPTION": "Cloud-free mosaics",
            "STAC_FASTAPI_LANDING_ID": "unveil",
        }
        command = [sys.executable, "-P", "-m", "uvicorn", _APP, "--factory", "--port", str(port)]
        api = subprocess.Popen(
            [*command, "--log-level", "warning"], env=os.environ | variables, stdin=subprocess.DEVNULL
        )
        try:
            _await(api, f"{url}/_mgmt/health")
            yield Service(url, server, publisher, reader, token)
        finally:
            api.kill()
            api.wait()


def _prepare(server: Postgres, publisher: str, reader: str) -> None:
    """Make the database with pgstac and the two roles with least rights, as a deployment does."""
    variables = {
        "UNVEIL_PUBLISHER_PASSWORD": publisher,
        "UNVEIL_READER_PASSWORD": reader,
        "UNVEIL_STAC_DATABASE": DATABASE,
    }
    owner = server.client(server.user, server.password, "postgres")
    command, environment = [sys.executable, str(_PREPARE)], os.environ | owner | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr


def _await(api: subprocess.Popen[bytes], health: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline and api.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(health, timeout=5, trust_env=False).is_success:
                return
        time.sleep(_POLL_S)
    raise AssertionError("The STAC API does not start.")
