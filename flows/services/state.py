"""State of services that Unveil starts: their login, for its owner alone, the record of `unveil up`, and locks."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from flows.errors import InvalidSettings, ServiceUnavailable
from stac.io.files import write_json, writing

_LOGIN, _RECORD = "login", "up.json"
_USER = "unveil"
_MODE = 0o600
#: MLflow takes no shorter password.
_SHORTEST = 12


@dataclass(frozen=True, slots=True)
class Login:
    """User name and password of Prefect and MLflow."""

    user: str
    password: str = field(repr=False)

    @property
    def auth_string(self) -> str:
        """As Prefect takes it, and as it stands in the file."""
        return f"{self.user}:{self.password}"

    def client_environment(self) -> dict[str, str]:
        """Return what Prefect's and MLflow's clients read."""
        return {
            "PREFECT_API_AUTH_STRING": self.auth_string,
            "MLFLOW_TRACKING_USERNAME": self.user,
            "MLFLOW_TRACKING_PASSWORD": self.password,
        }


def login_file(folder: Path) -> Path:
    """Return the file of a folder's login: one line, `USER:PASSWORD`."""
    return folder / _LOGIN


def ensure_login(folder: Path) -> Login:
    """Return the login of a folder; the first time one is made. Users may write the line themselves.

    Raises:
        InvalidSettings: the file holds no login, or others can read it.
        NotWritable, DiskFull: it cannot be written.
    """
    path = login_file(folder)
    if not path.exists():
        with writing(path), os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE), "w") as stream:
            stream.write(f"{_USER}:{secrets.token_urlsafe(24)}\n")
    return read_login(folder)


def read_login(folder: Path) -> Login:
    """Return the login of a folder that has one.

    Raises:
        InvalidSettings: there is none, the file holds no login, or others can read it.
    """
    path = login_file(folder)
    try:
        mode, line = path.stat().st_mode, path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path} cannot be read ({type(error).__name__}); `unveil up` makes it.") from error
    user, _, password = line.partition(":")
    if not user or len(password) < _SHORTEST or not line.isprintable() or " " in line:
        raise InvalidSettings(
            f"{path} must hold one line USER:PASSWORD; the password has {_SHORTEST} characters or more."
        )
    if mode & 0o077:
        raise InvalidSettings(f"{path} can be read by others (mode {mode & 0o777:o}); run `chmod 600 {path}`.")
    return Login(user, password)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is remembered of a folder between starts; its supervisor keeps it up to date."""

    #: Port of each service, by name.
    ports: Mapping[str, int] = field(default_factory=dict)
    #: SHA-256 of the prefect.yaml that was deployed.
    deployed: str = ""
    #: Process of the last supervisor.
    supervisor: int | None = None
    #: Process of each service's keeper, by name; empty until all services answered.
    members: Mapping[str, int] = field(default_factory=dict)


def read_record(folder: Path) -> Record:
    """Return the record of a folder; an empty one where there is none.

    Raises:
        InvalidSettings: the file is not ours.
    """
    path = folder / _RECORD
    try:
        return Record(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return Record()
    except (OSError, ValueError, TypeError) as error:
        raise InvalidSettings(
            f"{path} is not a record of `unveil up` ({type(error).__name__}): remove it to begin with default ports."
        ) from error


def write_record(folder: Path, record: Record) -> None:
    """Replace the record; a reader sees the old one or the new one.

    Raises:
        DiskFull, NotWritable: it cannot be written.
    """
    write_json(folder / _RECORD, asdict(record))


@contextlib.contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Let one process at a time go on.

    Raises:
        ServiceUnavailable: it holds on for longer.
        DiskFull, NotWritable: the lock cannot be made.
    """
    lock = FileLock(path)
    with writing(path):
        try:
            lock.acquire(timeout=timeout_s)
        except Timeout as error:
            raise ServiceUnavailable(
                f"Another process has held {path} for {timeout_s:.0f} s: stop it, then try again."
            ) from error
    try:
        yield
    finally:
        lock.release()
