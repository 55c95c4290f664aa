"""A private STAC API on loopback: PostgreSQL with pgstac, and stac-fastapi-pgstac with transactions."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from flows.errors import ServiceUnavailable
from stac.io.files import write_json, writing
from tests.support import postgres

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

    #: Cluster, logs and passwords.
    folder: Path
    #: Landing page of the API.
    api: str
    host: str
    port: int
    #: Passwords of the role that publishes, and of the one that searches.
    password: str = field(repr=False)
    reader_password: str = field(repr=False)
    #: What the API asks for, UNVEIL_INDEX_TOKEN.
    token: str = field(repr=False)

    @property
    def database(self) -> str:
        """Address of the database, without the password."""
        return f"postgresql://{PUBLISHER}@{self.host}:{self.port}/{DATABASE}"

    @property
    def dsn(self) -> str:
        """Address of the database, password included."""
        return f"postgresql://{PUBLISHER}:{self.password}@{self.host}:{self.port}/{DATABASE}"


def start(folder: Path, settings: dict[str, str] | None = None) -> Service:
    """Run database and API in a folder; what is there is kept, what runs is left alone.

    Args:
        folder: of the cluster, logs and passwords.
        settings: of PostgreSQL.

    Raises:
        ServiceUnavailable: one of the two does not start.
        NotWritable, DiskFull: the folder cannot be written.
    """
    folder = folder.resolve()
    server = postgres.start(folder / "postgres", settings)
    names = ("publisher.password", "reader.password", "api.token")
    password, reader, token = (_password(folder / name) for name in names)
    prepare(server, password, reader)
    api = _running_api(folder) or _start_api(folder, server, password, token)
    return Service(folder, api, server.host, server.port, password, reader, token)


def stop(folder: Path) -> None:
    """Stop API and database of a folder; the data stay.

    Raises:
        ServiceUnavailable: the database does not stop.
    """
    folder = folder.resolve()
    process = _process(folder)
    if process is not None:
        process.terminate()
        try:
            process.wait(10)
        except psutil.TimeoutExpired:
            process.kill()
    (folder / "api.pid").unlink(missing_ok=True)
    postgres.stop(folder / "postgres")


def prepare(server: postgres.Postgres, publisher: str, reader: str, database: str = DATABASE) -> None:
    """Make the database with pgstac and the two roles with least rights, as a deployment does.

    Raises:
        ServiceUnavailable: it cannot be prepared.
    """
    variables = {
        "UNVEIL_PUBLISHER_PASSWORD": publisher,
        "UNVEIL_READER_PASSWORD": reader,
        "UNVEIL_STAC_DATABASE": database,
    }
    _require(_PREPARE.is_file(), f"{_PREPARE} is missing; start the service from a copy of the repository.")
    done = subprocess.run(
        [sys.executable, str(_PREPARE)],
        env=os.environ | _connection(server, server.user, server.password, "postgres") | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    _require(done.returncode == 0, f"pgstac cannot be installed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")


def _start_api(folder: Path, server: postgres.Postgres, password: str, token: str) -> str:
    port = postgres.free_port()
    log = folder / "api.log"
    variables = _connection(server, PUBLISHER, password, DATABASE) | {
        "UNVEIL_INDEX_TOKEN": token,
        "ENABLE_TRANSACTIONS_EXTENSIONS": "TRUE",
        "STAC_FASTAPI_TITLE": "Unveil",
        "STAC_FASTAPI_DESCRIPTION": "Cloud-free mosaics",
        "STAC_FASTAPI_LANDING_ID": "unveil",
    }
    command = [sys.executable, "-P", "-m", "uvicorn", _APP, "--factory", "--host", "127.0.0.1", "--port", str(port)]
    with writing(log), log.open("ab") as stream:
        process = subprocess.Popen(
            [*command, "--log-level", "warning"],
            cwd=folder,
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    write_json(folder / "api.pid", {"pid": process.pid, "url": url})
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/_mgmt/health", timeout=5, trust_env=False).is_success:
                return url
        time.sleep(_POLL_S)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    raise ServiceUnavailable(f"The STAC API does not start; its last words are in {log}.")


def _running_api(folder: Path) -> str | None:
    """Return the address of the API that runs in a folder, None where none does."""
    return None if _process(folder) is None else str(_record(folder)["url"])


def _process(folder: Path) -> psutil.Process | None:
    """Return the API's process, as long as it is one: its number may be another's by now."""
    with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
        process = psutil.Process(int(_record(folder)["pid"]))
        if _APP in process.cmdline():
            return process
    return None


def _record(folder: Path) -> dict[str, str]:
    return dict(json.loads((folder / "api.pid").read_text("utf-8")))


def _password(path: Path) -> str:
    """Return the password in a file, a random one where there is none."""
    if not path.is_file():
        with writing(path):
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(16), "utf-8")
    return path.read_text("utf-8")


def _connection(server: postgres.Postgres, user: str, password: str, database: str) -> dict[str, str]:
    return {
        "PGHOST": server.host,
        "PGPORT": str(server.port),
        "PGUSER": user,
        "PGPASSWORD": password,
        "PGDATABASE": database,
    }


def _require(good: bool, problem: str) -> None:
    if not good:
        raise ServiceUnavailable(problem)
