"""A private PostgreSQL cluster on loopback, in a temporary folder, made with the installed programs."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from flows.services.process import free_port

_DEBIAN = Path("/usr/lib/postgresql")
_SYSTEM_USER = "postgres"
_TIMEOUT_S = 90
_OWNER = "unveil"
#: No socket, whose path would have to be short.
_SETTINGS = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "log_timezone": "UTC"}

#: Faster, and as lost as the machine after a power cut: right for tests.
FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "32MB",
}


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running cluster and its owner."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)

    def url(self, database: str, driver: str = "postgresql+psycopg") -> str:
        """Return the address of a database, password included."""
        return f"{driver}://{self.user}:{self.password}@{self.host}:{self.port}/{database}"

    def new_database(self) -> str:
        """Make an empty database and return its name."""
        name = f"t{secrets.token_hex(6)}"
        with psycopg.connect(self.url("postgres", "postgresql"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return name

    def client(self, user: str, password: str, database: str) -> dict[str, str]:
        """Return the environment of a client."""
        login = {"PGUSER": user, "PGPASSWORD": password, "PGDATABASE": database}
        return login | {"PGHOST": self.host, "PGPORT": str(self.port)}


def programs() -> Path | None:
    """Return the folder of `initdb` and `pg_ctl`, the newest version's; None without any."""
    found = shutil.which("initdb")
    versions = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda p: float(p.parents[1].name))
    return Path(found).parent if found else (versions[-1].parent if versions else None)


@contextmanager
def cluster(settings: Mapping[str, str] | None = None) -> Iterator[Postgres]:
    """Make a cluster in a temporary folder, run it, and remove it.

    Args:
        settings: of the server, above its defaults; `FAST` when left out.
    """
    folder, password, port = Path(tempfile.mkdtemp(prefix="unveil-pg-")), secrets.token_hex(16), free_port()
    secret, data = folder / "password", folder / "data"
    secret.write_text(password, "utf-8")
    if os.geteuid() == 0:  # the server refuses to run as root
        for path in (folder, secret):
            shutil.chown(path, _SYSTEM_USER)
    try:
        _run(folder, "initdb", "-D", data, "-U", _OWNER, "-A", "scram-sha-256", "--pwfile", secret, "-N")
        chosen = _SETTINGS | {"port": str(port)} | dict(FAST if settings is None else settings)
        with (data / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.writelines(f"{name} = '{value}'\n" for name, value in chosen.items())
        _run(folder, "pg_ctl", "-D", data, "-l", folder / "log", "-w", "-t", str(_TIMEOUT_S), "start")
        yield Postgres("127.0.0.1", port, _OWNER, password)
    finally:
        if (data / "postmaster.pid").is_file():
            _run(folder, "pg_ctl", "-D", data, "-m", "fast", "-w", "-t", str(_TIMEOUT_S), "stop")
        shutil.rmtree(folder, ignore_errors=True)


def _run(folder: Path, program: str, *arguments: str | Path) -> None:
    found, user = programs(), _SYSTEM_USER if os.geteuid() == 0 else None
    assert found is not None, "PostgreSQL is not installed"
    # A server that pg_ctl leaves behind would hold a pipe open; what it says is in its log.
    done = subprocess.run(
        [found / program, *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=2 * _TIMEOUT_S,
        check=False,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    log = folder / "log"
    assert done.returncode == 0, f"{program}: {log.read_text('utf-8') if log.is_file() else done.returncode}"
