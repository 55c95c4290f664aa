"""Options of the command line that are made of models of settings: every field, grouped as the fields are.

They are made when such a command is called or its help is shown, so that `unveil --help` loads no settings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from enum import StrEnum, unique
from functools import wraps
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

Command = Callable[..., None]
#: What a command gets: the settings that were named on the command line, by name.
Given = dict[str, Any]
_GIVEN = "given"
Model = TypeVar("Model", bound="BaseModel")
_COMMANDS: dict[str, tuple[Command, tuple[str, ...]]] = {}


@unique
class Taken(StrEnum):
    """Groups of settings that a command takes whole."""

    #: All of a run.
    RUN = "run"
    #: What a mosaic is made of.
    MOSAIC = "mosaic"
    #: Of a run only places, services, devices and waiting: what pixels depend on is known already.
    LOCAL = "local"
    #: All of a retraining.
    RETRAIN = "retrain"
    #: Scenes of some grid squares.
    SCENES = "scenes"
    #: All of a training.
    TRAIN = "train"


class SettingsGroup(TyperGroup):
    """Commands of which some take settings."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is called; one that takes settings gets their options now."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, with_options(str(name), command), rest


def takes_settings(*parts: str) -> Callable[[Command], Command]:
    """Let a command take settings as options; those that were given are its argument `given`.

    Args:
        parts: groups of settings (`Taken`), and names of single settings of a run; all of a run when left out.
    """

    def decorated(command: Command) -> Command:
        _COMMANDS[command.__name__] = command, parts or (Taken.RUN,)
        own = inspect.signature(command, eval_str=True)
        return _signed(command, [each for each in own.parameters.values() if each.name != _GIVEN])

    return decorated


def taken_by(name: str) -> tuple[str, ...]:
    """Return what a command takes of the settings: groups and single names."""
    return _COMMANDS[name][1] if name in _COMMANDS else ()


def with_options(name: str, plain: Any) -> Any:
    """Return a command with the options of its settings; one that takes none is returned as it is."""
    if name not in _COMMANDS:
        return plain
    command, parts = _COMMANDS[name]
    own = inspect.signature(command, eval_str=True)
    taken = {str(each.name) for each in own.parameters.values()} | _declared(own.parameters.values())
    options = {each.name: each for each in _options(parts) if each.name not in taken}

    @wraps(command)
    def called(**values: Any) -> None:
        given = {option: values.pop(option) for option in options}
        command(**values, given={option: _plain(value) for option, value in given.items() if value is not None})

    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command(name)(
        _signed(called, [*(p for p in own.parameters.values() if p.name != _GIVEN), *options.values()])
    )
    return typer.main.get_command(single)


def part_of(given: Given, kind: type[Model], **defaults: Any) -> Model:
    """Return a model of what was given of its fields, which are taken out of `given`.

    Args:
        given: settings by name.
        kind: a pydantic model.
        defaults: of this command, for what was not given.

    Raises:
        InvalidSettings: a value is out of range.
    """
    from flows.settings.loading import validated

    return validated(kind, defaults | {name: given.pop(name) for name in fields_of(kind) if name in given})


def fields_of(kind: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """Return the fields of a pydantic model that fit in an option, by name: described, and no record of their own."""
    return {
        name: field
        for name, field in kind.model_fields.items()
        if field.description and not is_dataclass(field.annotation)
    }


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


def _options(parts: Sequence[str]) -> Iterator[inspect.Parameter]:
    """Yield the options of settings, group by group; single ones stand beside the command's own options."""
    from flows.settings.run_settings import RunSettings

    for part in parts:
        groups = _groups(part) if part in set(Taken) else [(None, {part: RunSettings.model_fields[part]})]
        for title, fields in groups:
            yield from (_option(name, field, title) for name, field in fields.items())


def _groups(taken: str) -> Sequence[tuple[str | None, Mapping[str, FieldInfo]]]:
    """Return settings by name, under the titles of their options."""
    from flows.settings.run_settings import groups

    match taken:
        case Taken.MOSAIC:
            from flows.settings.mosaic_options import MosaicOptions

            return [("Mosaic", fields_of(MosaicOptions))]
        case Taken.RETRAIN:
            from flows.models.retrain_settings import RetrainSettings

            return [("Retraining", fields_of(RetrainSettings))]
        case Taken.TRAIN:
            from flows.models.training_request import TrainingRequest

            return [("Training", fields_of(TrainingRequest))]
        case Taken.SCENES:
            from flows.planning.search import SceneSet

            return [("Scenes", fields_of(SceneSet))]
        case Taken.LOCAL:
            from flows.settings.fields import Mark
            from flows.settings.run_settings import marked

            local = marked(Mark.LOCAL)
            return [(title, {name: field for name, field in own.items() if name in local}) for title, own in groups()]
        case _:
            return groups()


def _option(name: str, field: FieldInfo, panel: str | None) -> inspect.Parameter:
    extra = field.json_schema_extra
    declared = str(extra["option"]) if isinstance(extra, dict) and "option" in extra else f"--{name.replace('_', '-')}"
    kinds = [kind for kind in _kinds(field.annotation) if kind is not type(None)]
    text: Any = str | None
    shown: str | None = _metavar(kinds)
    if kinds == [bool]:
        text, declared, shown = bool | None, f"{declared}/--no-{declared[2:]}", None
    elif any(get_origin(kind) is tuple for kind in kinds):
        text = list[str] | None
    default: Any = None
    if field.is_required():
        text, default = str, inspect.Parameter.empty
    about = f"{field.description}{_default(field)}"
    info = typer.Option(declared, help=about, metavar=shown, rich_help_panel=panel, show_default=False)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[text, info])


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
    if field.is_required() or value is None or isinstance(value, bool) or value in ("", ()):
        return ""
    return f"; default {','.join(map(str, value)) if isinstance(value, tuple) else value}"
