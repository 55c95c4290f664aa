"""Options of the command line that are made of the settings: every setting, grouped as the settings are.

They are made when such a command is called or its help is shown, so that `unveil --help` loads no settings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum, unique
from functools import wraps
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Command = Callable[..., None]
#: What a command gets: the settings that were named on the command line, by name.
Given = dict[str, Any]
_GIVEN = "given"


@unique
class Taken(StrEnum):
    """Which settings a command takes."""

    #: All of a run.
    RUN = "run"
    #: All of a run, and what a mosaic is made of.
    MOSAIC = "mosaic"
    #: Of a run only places, services, devices and waiting: what pixels depend on is known already.
    LOCAL = "local"
    #: All of a retraining.
    RETRAIN = "retrain"


_COMMANDS: dict[str, tuple[Command, Taken]] = {}


class SettingsGroup(TyperGroup):
    """Commands of which some take all settings."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is called; one that takes settings gets their options now."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in _COMMANDS:
            command = _with_options(name, *_COMMANDS[name])
        return name, command, rest


def takes_settings(taken: Taken = Taken.RUN) -> Callable[[Command], Command]:
    """Let a command take every setting as an option; those that were given are its argument `given`."""

    def decorated(command: Command) -> Command:
        _COMMANDS[command.__name__] = command, taken
        own = inspect.signature(command, eval_str=True)
        return _signed(command, [each for each in own.parameters.values() if each.name != _GIVEN])

    return decorated


def _with_options(name: str, command: Command, wanted: Taken) -> Any:
    """Return a command with the options of its settings."""
    own = inspect.signature(command, eval_str=True)
    taken = {str(each.name) for each in own.parameters.values()} | _declared(own.parameters.values())
    options = {each.name: each for each in _options(wanted) if each.name not in taken}

    @wraps(command)
    def called(**values: Any) -> None:
        given = {option: values.pop(option) for option in options}
        command(**values, given={option: _plain(value) for option, value in given.items() if value is not None})

    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command(name)(
        _signed(called, [*(p for p in own.parameters.values() if p.name != _GIVEN), *options.values()])
    )
    return typer.main.get_command(single)


def _signed(command: Command, parameters: Sequence[inspect.Parameter]) -> Command:
    @wraps(command)
    def signed(**values: Any) -> None:
        command(**values)

    keyword = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    signed.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    signed.__annotations__ = {each.name: each.annotation for each in keyword}
    return signed


def _plain(value: Any) -> Any:
    """Return the value of an option as the environment would give it: one text, or several."""
    if isinstance(value, list | tuple):
        return value[0] if len(value) == 1 else list(value)
    return value


def _declared(parameters: Iterable[inspect.Parameter]) -> set[str]:
    """Return the names that a command's own options have on the command line."""
    infos = (info for each in parameters for info in getattr(each.annotation, "__metadata__", ()))
    return {str(info.default).removeprefix("--").replace("-", "_") for info in infos}


def _options(wanted: Taken) -> Iterator[inspect.Parameter]:
    """Yield the options of settings, group by group."""
    for title, fields in _groups(wanted):
        yield from (_option(name, field, title) for name, field in fields.items())


def _groups(wanted: Taken) -> list[tuple[str, dict[str, FieldInfo]]]:
    """Return the settings that a command takes, by name, under the titles of their options."""
    if wanted is Taken.RETRAIN:
        from flows.models.retrain_settings import RetrainSettings

        simple = {name: field for name, field in RetrainSettings.model_fields.items() if name != "gates"}  # from a file
        return [("Retraining", simple)]
    from flows.settings.fields import Mark
    from flows.settings.mosaic_options import MosaicOptions
    from flows.settings.run_settings import groups, marked

    if wanted is Taken.LOCAL:
        local = marked(Mark.LOCAL)
        return [(title, {name: field for name, field in own.items() if name in local}) for title, own in groups()]
    return [("Mosaic", MosaicOptions.model_fields)] * (wanted is Taken.MOSAIC) + groups()


def _option(name: str, field: FieldInfo, panel: str) -> inspect.Parameter:
    extra = field.json_schema_extra
    declared = str(extra["option"]) if isinstance(extra, dict) and "option" in extra else f"--{name.replace('_', '-')}"
    kinds = [kind for kind in _kinds(field.annotation) if kind is not type(None)]
    text: Any = str | None
    shown: str | None = _metavar(kinds)
    if kinds == [bool]:
        text, declared, shown = bool | None, f"{declared}/--no-{declared[2:]}", None
    elif any(get_origin(kind) is tuple for kind in kinds):
        text = list[str] | None
    about = f"{field.description}{_default(field)}"
    info = typer.Option(declared, help=about, metavar=shown, rich_help_panel=panel, show_default=False)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[text, info])


def _kinds(annotation: Any) -> Sequence[Any]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _metavar(kinds: Sequence[Any]) -> str:
    """Return what stands for the value of an option: its choices, or its type."""
    first = kinds[0]
    if isinstance(first, type) and issubclass(first, StrEnum):
        return f"[{'|'.join(first)}]"
    return {int: "INTEGER", float: "NUMBER"}.get(first, "TEXT")


def _default(field: FieldInfo) -> str:
    """Return the default for the help, where there is one that says something."""
    value = field.default
    if value is None or isinstance(value, bool) or value in ("", ()):
        return ""
    return f"; default {','.join(map(str, value)) if isinstance(value, tuple) else value}"
