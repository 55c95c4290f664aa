"""The login of the services that Unveil starts: made at the first start, in a file that its owner alone can read."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from flows.errors import InvalidSettings
from stac.io.files import writing

_FILE = "login"
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
    return folder / _FILE


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
