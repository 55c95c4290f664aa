"""Opening MLflow quietly and safely: which URIs are allowed, no pickle, bounded time-outs, plain errors.

MLflow takes two seconds to import, so it is imported only where it is used.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from flows.errors import InvalidSettings, ServiceUnavailable
from flows.services.process import NO_ROOM
from stac.errors import DiskFull, NotWritable
from stac.io.files import private_state
from stac.io.secrets import without_secret

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

#: Holds the runs of trainings.
TRAINING_EXPERIMENT = "unveil-training"
#: Seconds for an MLflow server to answer its health check.
HEALTH_TIMEOUT_S = 3.0
#: Characters of a data set's name and digest that MLflow keeps.
_NAME_LENGTH, _DIGEST_LENGTH = 500, 36

_SQLITE = "sqlite:///"

#: Set before the first import unless the user says otherwise.
_DEFAULTS = {
    "GIT_PYTHON_REFRESH": "quiet",  # no warning where git is not installed
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def registry_uri(state_dir: Path, configured: str | None) -> str:
    """Return the MLflow URI to use: the configured one, else a SQLite database in `state_dir`.

    Raises:
        InvalidSettings: the URI is neither an MLflow server nor a SQLite database.
    """
    if configured is None:
        return f"{_SQLITE}{state_dir.resolve() / 'mlflow.db'}"
    if configured.startswith(("http://", "https://")) or (
        len(configured) > len(_SQLITE) and configured.startswith(_SQLITE)
    ):
        return configured
    raise InvalidSettings(
        f"MLflow URI {without_secret(configured)} is not supported; give http(s)://HOST or sqlite:///PATH."
    )


def database_of(uri: str) -> Path | None:
    """Return the absolute path of the SQLite database at `uri`, or None for a server."""
    return Path(uri.removeprefix(_SQLITE)).resolve() if uri.startswith(_SQLITE) else None


def problem_of(uri: str) -> str | None:
    """Return what keeps MLflow at `uri` from being used, or None; takes at most `HEALTH_TIMEOUT_S`."""
    database = database_of(uri)
    if database is not None:
        return _database_problem(database)
    try:
        answer = httpx.get(f"{uri.rstrip('/')}/health", timeout=HEALTH_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return str(error) or type(error).__name__
    return None if answer.is_success else f"HTTP status {answer.status_code}"


def _database_problem(path: Path) -> str | None:
    if not path.exists():
        return None
    try:
        # MLflow itself would try for minutes to open a file that is not a database.
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return None if os.access(path, os.W_OK) else "no write permission"


#: Columns of MLflow's tables that say where artefacts are.
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def artifacts_beside(database: Path) -> Path:
    """Return the folder of the artefacts of a SQLite database."""
    return database.parent / "mlartifacts"


def follow_moved_folder(database: Path) -> None:
    """Let a database find its artefacts beside it: MLflow keeps absolute places, and folders are moved and copied.

    Raises:
        ServiceUnavailable: the database cannot be changed.
    """
    here = artifacts_beside(database)
    if not (database.is_file() and here.is_dir()):
        return
    try:
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            places = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
            found = (re.match(rf"(file:.*/{here.name})(/|$)", str(place)) for (place,) in places)
            for before in {match[1] for match in found if match} - {here.as_uri()}:
                for table, column in _LOCATIONS:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 - names of ours
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (here.as_uri(), len(before) + 1, before, len(before) + 1, f"{before}/"),
                    )
    except sqlite3.OperationalError as error:
        if "no such" not in str(error):  # a database that MLflow has not made yet, or an older one
            raise ServiceUnavailable(
                f"{database} was moved and cannot be updated ({error}): stop what uses it, then try again."
            ) from error


def open_client(uri: str) -> MlflowClient:
    """Return a client for the tracking store and registry at `uri`; a new database is created (some seconds).

    Raises:
        ServiceUnavailable: the server does not answer, or the database cannot be used.
        NotWritable: the folder of the database cannot be written.
    """
    problem = problem_of(uri)
    if problem is not None:
        raise ServiceUnavailable(
            f"MLflow at {without_secret(uri)} cannot be used ({problem}): start that server or move that "
            "file away, or set mlflow_uri to another place."
        )
    database = database_of(uri)
    if database is not None:
        prepare_folder(database.parent)
        follow_moved_folder(database)
    _prepare_import()
    from mlflow import MlflowClient

    with plain_errors(uri):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_of(client: MlflowClient, uri: str, name: str) -> str:
    """Return the id of an experiment at `uri`, made when missing; beside a database its artefacts lie in a folder."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    database = database_of(uri)
    location = None if database is None else artifacts_beside(database).as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def dataset_input(
    context: str, name: str, sha256: str, source: dict[str, str], profile: dict[str, Any] | None = None
) -> DatasetInput:
    """Return a data set as MLflow keeps it with a run.

    Args:
        context: `training` or `evaluation`.
        name: for people.
        sha256: of its content.
        source: where it is from.
        profile: what else is known of it.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    known = None if profile is None else json.dumps(profile)
    found = Dataset(name[:_NAME_LENGTH], sha256[:_DIGEST_LENGTH], "stac", json.dumps(source), profile=known)
    return DatasetInput(found, [InputTag("mlflow.data.context", context)])


def prepare_folder(folder: Path) -> None:
    """Create `folder`, for its owner alone; raise NotWritable when it cannot be created or written."""
    private_state(folder)
    if not os.access(folder, os.W_OK):
        raise NotWritable(f"{folder} cannot be written: choose another state folder.")


def _prepare_import() -> None:
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Not a matter of taste: a registry must not be able to run code here through a pickle.
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"


@contextlib.contextmanager
def plain_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow raises in this context into our errors, and keep its notes and tracebacks off the terminal.

    Raises:
        DiskFull: its database or artefacts do not fit.
        ServiceUnavailable: anything else.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    with _silent("mlflow", "alembic"):
        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if NO_ROOM.search(str(error)):
                raise DiskFull(
                    f"No room for MLflow's database or artefacts at {without_secret(uri)}; free some space."
                ) from error
            raise ServiceUnavailable(
                f"MLflow at {without_secret(uri)} failed: {first} Check that it runs and fits MLflow "
                f"{_mlflow_version()}."
            ) from error


def _mlflow_version() -> str:
    from importlib.metadata import version

    return version("mlflow")


@contextlib.contextmanager
def _silent(*names: str) -> Iterator[None]:
    loggers: list[tuple[logging.Logger, Any]] = [(logging.getLogger(n), logging.getLogger(n).level) for n in names]
    for logger, _ in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in loggers:
            logger.setLevel(level)
