"""Load settings: file, then environment, then command line."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError

from flows.errors import InvalidSettings
from flows.services.prefect_app import loopback_hosts
from flows.services.state import login_file, read_login, read_record
from flows.settings import GridKind, RunSettings, has_password
from flows.settings.fields import Mark, setting_name
from flows.settings.mosaic_options import MosaicOptions
from flows.settings.run_settings import marked
from stac.catalog.indexes.base import index_secret
from stac.io.secrets import holds_secret, redact

Model = TypeVar("Model", bound=BaseModel)
#: What reading YAML raises: its scalars may claim a type that they are not, and brackets may be nested for ever.
_MALFORMED = (OSError, yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)
#: YAML may name the same list again and again, so that a few lines are gigabytes of text.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 100, 100


def recent(settings: RunSettings, last_days: int | None, now: datetime | None = None) -> RunSettings:
    """Return settings whose interval is the last days, the present one included; unchanged for None.

    Args:
        settings: of a run.
        last_days: how many days back, 1 or more.
        now: the end of the interval; the present moment when left out.

    Raises:
        InvalidSettings: `last_days` is less than 1.
    """
    if last_days is None:
        return settings
    if last_days < 1:
        raise InvalidSettings(f"last_days is {last_days}; give 1 or more, or leave it out for a fixed interval.")
    end = (now or datetime.now(UTC)).astimezone(UTC)
    begin = end - timedelta(days=last_days)
    return settings.model_copy(update={"datetime": f"{begin:%Y-%m-%d}/{end:%Y-%m-%d}"})


def load_settings(config: Path | None = None, overrides: Mapping[str, Any] | None = None) -> RunSettings:
    """Return settings from the command line (`overrides`), the environment, and a YAML file, in this order.

    Raises:
        InvalidSettings: the file cannot be read, a name is unknown, or a value is out of range.
        InvalidQuery: the fixed grid is impossible.
    """
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    from_file = {} if config is None else read_yaml(config)
    _refuse_password(from_file | given)
    environment = {name for name in from_file if f"UNVEIL_{name.upper()}" in os.environ}
    settings = validated(RunSettings, {k: v for k, v in from_file.items() if k not in environment} | given, config)
    if holds_secret(settings.public_root):
        raise InvalidSettings("public_root holds a login or a signature; give an address that everybody may read.")
    if settings.min_cloud > settings.max_cloud:
        raise InvalidSettings(f"min_cloud {settings.min_cloud} is above max_cloud {settings.max_cloud}; swap them.")
    if settings.grid is GridKind.FIXED:
        _ = settings.fixed_grid  # before anything is searched
    use_login_of_up(settings)
    steps, start = settings.steps, settings.start
    if start is not None and steps is not None and steps > start + 1:
        raise InvalidSettings(f"{steps} steps do not fit between start {start} and 0; ask for fewer.")
    return settings


def validated(kind: type[Model], values: Mapping[str, Any], config: Path | None = None) -> Model:
    """Return a pydantic model of some values.

    Raises:
        InvalidSettings: a name is unknown, or a value is missing or out of range; the first of them is named.
    """
    if unknown := sorted(values.keys() - kind.model_fields.keys()):
        raise InvalidSettings(_unknown(unknown[0], kind, config))
    try:
        return kind(**values)
    except ValidationError as error:
        raise InvalidSettings(_explain(error, config)) from error
    except (SettingsError, RecursionError) as error:
        raise InvalidSettings(f"A setting cannot be read ({str(error).splitlines()[0]}).") from error


def use_login_of_up(settings: RunSettings) -> None:
    """Give this process the login that `unveil up` made, where it is sent to those servers and has no other."""
    if not login_file(settings.state / "up").exists():
        return
    ports = read_record(settings.state / "up").ports
    own = {host for port in ports.values() for host in loopback_hosts(port)}
    asked = {urlsplit(url).netloc for url in (os.environ.get("PREFECT_API_URL"), settings.mlflow_uri) if url}
    if asked & own:
        for name, value in read_login(settings.state / "up").client_environment().items():
            os.environ.setdefault(name, value)


def _refuse_password(values: Mapping[str, Any]) -> None:
    """Raise when a password would end in a file, in a list of processes, or with the parameters of a flow."""
    indexes = values.get("indexes") or ()
    named = indexes.split(",") if isinstance(indexes, str) else indexes
    held = {name: holds_secret(str(values.get(name) or "")) for name in sorted(marked(Mark.ADDRESS))}
    held["indexes"] = isinstance(named, list) and any(index_secret(str(address)) for address in named)
    held["ledger_url"] = has_password(str(values.get("ledger_url") or ""))
    for name in (name for name, secret in held.items() if secret):
        kept = name in marked(Mark.HIDDEN)
        instead = ", or leave the password to PGPASSWORD or ~/.pgpass" if kept else ", where it is not stored"
        raise InvalidSettings(
            f"{name} holds a login or a signature; set it as UNVEIL_{name.upper()} in the environment{instead}."
        )


class _Loader(yaml.SafeLoader):
    """YAML whose days stay text: a date without quotes means what it says in --datetime."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the settings of a YAML file.

    Raises:
        InvalidSettings: the file cannot be read, or is not a mapping.
    """
    try:
        values = _Loader(path.read_text("utf-8")).get_single_data()
    except _MALFORMED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidSettings(f"{path} cannot be read as YAML ({reason}); check --config.") from error
    if not isinstance(values, dict):
        raise InvalidSettings(f"{path} is not a list of settings; write lines such as `max_cloud: 60`.")
    return {str(name): value for name, value in values.items()}


def _unknown(name: str, kind: type[BaseModel], config: Path | None) -> str:
    where = f" (in {config} or on the command line)" if config else ""
    if kind is RunSettings and name in MosaicOptions.model_fields:
        remedy = f"it is an option of its own: `unveil mosaic --{name}`"
    elif near := get_close_matches(name, kind.model_fields, n=1):
        remedy = f"the nearest is {near[0]}"
    else:
        remedy = "the command's --help lists all"
    return f"Setting {_SHORT.repr(name)[1:-1]} is unknown{where}; {remedy}."


def _explain(error: ValidationError, config: Path | None) -> str:
    """Return one sentence for the first thing that is wrong."""
    first = error.errors()[0]
    name = setting_name(first["loc"]) or "settings"
    where = f" (in {config} or on the command line)" if config else ""
    # An address may hold a password, and those that always may are not shown at all.
    hidden = bool(first["loc"]) and str(first["loc"][0]) in marked(Mark.HIDDEN)
    given = "not understood" if hidden else redact(_SHORT.repr(first["input"]))
    reason = first["msg"].removeprefix("Value error, ")
    return f"Setting {name}{where} is {given}: {redact(reason[0].lower() + reason[1:])}."
