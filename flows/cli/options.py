"""Options that several commands share, and the settings that they name."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from flows.cli.setting_options import Given
    from flows.models.registry import Registry
    from flows.settings import RunSettings

Config = Annotated[Path | None, typer.Option("--config", help="YAML file with settings; the command line wins.")]
Out = Annotated[str | None, typer.Option("--out", help="Catalog that is written: a folder or s3://BUCKET/PREFIX.")]
StateDir = Annotated[
    Path | None, typer.Option("--state-dir", help="Ledger, registry and logs; `<out>/.unveil`, with S3 in your home.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
_Choice = TypeVar("_Choice", bound=StrEnum)


def settings(config: Path | None = None, **given: Any) -> RunSettings:
    """Return the settings of a run: of the options that were given, the environment, and a file."""
    from flows.settings.loading import load_settings

    return load_settings(config, given)


def registry(given: Given) -> Registry:
    """Return the model registry that the options name."""
    from flows.models.registry import Registry

    return Registry.of(settings(**given))


def existing_registry(given: Given) -> Registry:
    """Return the model registry that the options name; one that does not exist is not made by a look.

    Raises:
        InvalidSettings: its database does not exist.
    """
    from flows.errors import InvalidSettings
    from flows.models.mlflow_access import database_of

    found = registry(given)
    database = database_of(found.uri)
    if database is not None and not database.is_file():
        raise InvalidSettings(
            f"Registry {database} does not exist: name the catalog with --out, or its --state-dir; the first "
            "`unveil run` or `unveil register` makes one."
        )
    return found


def choice(kind: type[_Choice], name: str, option: str) -> _Choice:
    """Return what was chosen by name with an option.

    Raises:
        InvalidSettings: it is none of the choices.
    """
    from flows.errors import InvalidSettings

    try:
        return kind(name)
    except ValueError as error:
        raise InvalidSettings(f"{option} {name} is unknown; choose one of {', '.join(kind)}.") from error
