"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from flows.planning.search import SceneSet
    from flows.settings import RunSettings

Config = Annotated[Path | None, typer.Option("--config", help="YAML file with settings; the command line wins.")]
Source = Annotated[
    str | None,
    typer.Option(
        "--source",
        help="`sample`; a provider: earth-search, planetary-computer, copernicus, sentinel-hub or "
        "copernicus-sentinel-hub; URL of a STAC API; URL or path of a static catalog.",
    ),
]
Collection = Annotated[str | None, typer.Option("--collection", help="Collection to search.")]
Interval = Annotated[str | None, typer.Option("--datetime", help="Dates to restore: 2023-08-10/2023-08-20.")]
Out = Annotated[str | None, typer.Option("--out", help="Catalog that is written: a folder or s3://BUCKET/PREFIX.")]
Index = Annotated[
    list[str] | None,
    typer.Option("--index", help="STAC API or pgstac database that follows the catalog; may be given several times."),
]
PublicRoot = Annotated[
    str | None, typer.Option("--public-root", help="Address of the catalog in an index, e.g. https://HOST/catalog.")
]
StateDir = Annotated[
    Path | None, typer.Option("--state-dir", help="Ledger, registry and logs; `<out>/.unveil`, with S3 in your home.")
]
Model = Annotated[str | None, typer.Option("--model", help="models:/NAME@ALIAS or models:/NAME/VERSION.")]
Sampler = Annotated[str | None, typer.Option("--sampler", help="ddim, dpmpp2m or pyramid.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]


def settings(config: Path | None = None, **given: Any) -> RunSettings:
    """Return the settings of a run: of the options that were given, the environment, and a file."""
    from flows.settings.loading import load_settings

    return load_settings(config, given)


def scenes(cells: list[str], source: str | None, collection: str | None, interval: str | None) -> SceneSet:
    """Return the scenes that training and evaluation are about."""
    from flows.planning.search import SceneSet

    return SceneSet(tuple(cells), **overrides(source=source, collection=collection, interval=interval))


def overrides(**values: Any) -> dict[str, Any]:
    """Return the options that were given, by the names of the settings."""
    return {name: value for name, value in values.items() if value is not None}


_Choice = TypeVar("_Choice", bound=StrEnum)


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
