"""A private PostgreSQL cluster on loopback, in a folder, made with the installed programs."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from flows.errors import ServiceUnavailable
from stac.io.files import writing

_DEBIAN = Path("/usr/lib/postgresql")
_SYSTEM_USER = "postgres"
_TIMEOUT_S = 90
_OWNER = "unveil"
#: Our settings beside PostgreSQL's own; no socket, whose path would have to be short.
_CONFIGURATION = "unveil.conf"
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

    def new_database(self, template: str | None = None, name: str | None = None) -> str:
        """Make an empty database, or a copy of another one, and return its name; one that is there is kept."""
        name = name or f"t{secrets.token_hex(6)}"
        like = f" TEMPLATE {template}" if template else ""
        with psycopg.connect(self.url("postgres", "postgresql"), autocommit=True) as connection:
            there = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
            if there is None:
                connection.execute(f"CREATE DATABASE {name}{like}".encode())
        return name


def programs() -> Path | None:
    """Return the folder of `initdb` and `pg_ctl`, the newest version's; None without any."""
    found = shutil.which("initdb")
    versions = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda p: float(p.parents[1].name))
    return Path(found).parent if found else (versions[-1].parent if versions else None)


def start(folder: Path, settings: Mapping[str, str] | None = None) -> Postgres:
    """Run the cluster in a folder; it is made where there is none, and left alone where it runs.

    The owner's password is random and lies in the file `password`, readable by its owner alone.

    Args:
        folder: of the cluster; nothing else lies in it.
        settings: of the server, above its defaults.

    Raises:
        ServiceUnavailable: PostgreSQL is not installed, or does not start.
        NotWritable, DiskFull: the folder cannot be written.
    """
    folder = folder.resolve()
    secret = folder / "password"
    if not (folder / "data" / "PG_VERSION").is_file():
        _create(folder, secret)
    port = running_port(folder)
    if port is None:
        port = free_port()
        lines = [
            f"{name} = '{value}'" for name, value in (_SETTINGS | {"port": str(port)} | dict(settings or {})).items()
        ]
        with writing(folder):
            (folder / "data" / _CONFIGURATION).write_text("\n".join(lines) + "\n", "utf-8")
        _run(folder, "pg_ctl", "-D", folder / "data", "-l", folder / "log", "-w", "-t", str(_TIMEOUT_S), "start")
    return Postgres("127.0.0.1", port, _OWNER, secret.read_text("utf-8"))


def stop(folder: Path) -> None:
    """Stop the cluster in a folder; open connections are cut. Nothing happens where none runs.

    Raises:
        ServiceUnavailable: it does not stop.
    """
    folder = folder.resolve()
    if running_port(folder) is not None:
        _run(folder, "pg_ctl", "-D", folder / "data", "-m", "fast", "-w", "-t", str(_TIMEOUT_S), "stop")


def running_port(folder: Path) -> int | None:
    """Return the port of the cluster in a folder, None where it does not run."""
    record = folder / "data" / "postmaster.pid"
    try:
        lines = record.read_text("utf-8").splitlines()
        os.kill(int(lines[0]), 0)
    except PermissionError:  # it runs, as somebody else
        pass
    except (OSError, ValueError, IndexError):  # none, or a crash left the file
        return None
    return int(lines[3]) if len(lines) > 3 else None


def _create(folder: Path, secret: Path) -> None:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        secret.unlink(missing_ok=True)
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_hex(16), "utf-8")
        if os.geteuid() == 0:  # the server refuses to run as root
            for path in (folder, secret):
                shutil.chown(path, _SYSTEM_USER)
    _run(folder, "initdb", "-D", folder / "data", "-U", _OWNER, "-A", "scram-sha-256", "--pwfile", secret, "-N")
    with (folder / "data" / "postgresql.conf").open("a", encoding="utf-8") as configuration:
        configuration.write(f"\ninclude_if_exists = '{_CONFIGURATION}'\n")


def _run(folder: Path, program: str, *arguments: str | Path) -> None:
    found = programs()
    if found is None:
        raise ServiceUnavailable(
            "PostgreSQL is not installed (initdb was not found); on Debian: apt-get install postgresql."
        )
    command: Sequence[str | Path] = [found / program, *arguments]
    user = _SYSTEM_USER if os.geteuid() == 0 else None
    # A server that pg_ctl leaves behind would hold a pipe open; what it says is in its log.
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
        timeout=2 * _TIMEOUT_S,
        check=False,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    if done.returncode:
        log = folder / "log"
        told = (done.stderr or b"").decode(errors="replace") or (log.read_text("utf-8") if log.is_file() else "")
        last = (told.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise ServiceUnavailable(
            f"PostgreSQL in {folder} does not {arguments[-1] if program == 'pg_ctl' else 'begin'}: {last}"
        )


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def cluster() -> Iterator[Postgres]:
    """Make a cluster in a temporary folder, run it, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="unveil-pg-"))
    try:
        yield start(folder, FAST)
    finally:
        stop(folder)
        shutil.rmtree(folder, ignore_errors=True)
