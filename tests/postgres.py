"""A private PostgreSQL cluster on loopback, for as long as the tests run."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

_DEBIAN = Path("/usr/lib/postgresql")
_SYSTEM_USER = "postgres"
_TIMEOUT_S = 60
#: Faster, and as lost as the machine after a power cut: right for tests.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "log_timezone": "UTC",
}


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running cluster; databases are made in it as needed."""

    host: str
    port: int
    user: str
    password: str

    def url(self, database: str, driver: str = "postgresql+psycopg") -> str:
        """Address of a database, password included."""
        return f"{driver}://{self.user}:{self.password}@{self.host}:{self.port}/{database}"

    def new_database(self, template: str | None = None) -> str:
        """Make an empty database (or a copy of another one) and return its name."""
        name = f"t{secrets.token_hex(6)}"
        like = f" TEMPLATE {template}" if template else ""
        with psycopg.connect(self.url("postgres", "postgresql"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}{like}".encode())
        return name


def binaries() -> Path | None:
    """Return the folder of `initdb` and `postgres`, the newest version's; None without any."""
    found = shutil.which("initdb")
    versions = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda p: float(p.parents[1].name))
    return Path(found).parent if found else (versions[-1].parent if versions else None)


def require_binaries() -> Path:
    """Return the folder of the programs; skip without them, but fail where everything has to be tested."""
    found = binaries()
    if found is None:
        reason = "PostgreSQL is not installed (initdb was not found); see infra/ci/install_debian.sh"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def cluster(programs: Path) -> Iterator[Postgres]:
    """Make a cluster in a temporary folder, run it, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="unveil-pg-"))
    data, password = folder / "data", secrets.token_hex(16)
    try:
        secret = folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(password)
        if os.geteuid() == 0:  # the server refuses to run as root
            for path in (folder, secret):
                shutil.chown(path, _SYSTEM_USER)
        _run([programs / "initdb", "-D", data, "-U", "unveil", "-A", "scram-sha-256", "--pwfile", secret, "-N"], folder)
        port = _free_port()
        options = [
            f"-c{name}={value}" for name, value in (_SETTINGS | {"unix_socket_directories": str(folder)}).items()
        ]
        server = _start([programs / "postgres", "-D", data, "-p", str(port), *options], folder)
        try:
            found = Postgres("127.0.0.1", port, "unveil", password)
            _await(found, server, folder / "log")
            yield found
        finally:
            _stop(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> dict[str, str]:
    return {"user": _SYSTEM_USER, "group": _SYSTEM_USER} if os.geteuid() == 0 else {}


def _run(command: Sequence[str | Path], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
        extra_groups=[] if _user() else None,
        **_user(),
    )
    assert done.returncode == 0, done.stderr


def _start(command: Sequence[str | Path], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            extra_groups=[] if _user() else None,
            **_user(),
        )


def _await(server: Postgres, process: subprocess.Popen[bytes], log: Path) -> None:
    address = server.url("postgres", "postgresql")
    for _ in range(_TIMEOUT_S * 10):
        assert process.poll() is None, log.read_text()
        with suppress(psycopg.OperationalError), psycopg.connect(address, connect_timeout=2):
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    raise AssertionError(f"PostgreSQL did not answer within {_TIMEOUT_S} s: {log.read_text()}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)  # "fast": connections are cut
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)  # "immediate"
        process.wait(20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
