"""What runs in containers: infra/compose/compose.yaml as data, commands and settings looked at without running them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from tests.command import ROOT

FOLDER = ROOT / "infra" / "compose"
#: `${NAME}`, `${NAME:-default}` and `${NAME:?what to do}` of Compose.
REFERENCE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<text>[^}]*))?\}")


def document(path: Path = FOLDER / "compose.yaml") -> dict[str, Any]:
    """Return a Compose file, anchors and merges resolved, variables not."""
    return dict(yaml.safe_load(path.read_text("utf-8")))


@cache
def services() -> dict[str, dict[str, Any]]:
    """Return all services by name."""
    return dict(document()["services"])


def required() -> set[str]:
    """Return the variables without which Compose does not start."""
    text = (FOLDER / "compose.yaml").read_text("utf-8")
    return {match["name"] for match in REFERENCE.finditer(text) if match["kind"] == ":?"}


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """Return a value with its variables replaced, as Compose does; an unset one without default is a KeyError."""

    def value(match: re.Match[str]) -> str:
        given = variables.get(match["name"])
        return given or (match["text"] if match["kind"] == ":-" else variables[match["name"]])

    return REFERENCE.sub(value, text)


#: Programs of other packages; their options are tried where the services run (test_compose_stack.py).
_FOREIGN = {"prefect", "mlflow", "uvicorn"}


def problem_of(command: list[str]) -> str | None:
    """Return what is wrong with the command of a container that runs Unveil's image, None when nothing is."""
    program, *rest = command
    if program == "unveil":
        return _problem_of_ours(rest)
    if program == "python":
        if rest[0] == "-m":
            return None if importlib.util.find_spec(rest[1]) else f"there is no module {rest[1]}"
        return None if (ROOT / rest[0]).is_file() else f"there is no file {rest[0]}"
    return None if program in _FOREIGN and importlib.util.find_spec(program) else f"{program} is unknown"


def _problem_of_ours(arguments: list[str]) -> str | None:
    """Ask for help behind the arguments: the parser reads all of them, and an unknown one is an error."""
    from flows.cli import app

    result = CliRunner().invoke(app, [*arguments, "--help"])
    return None if result.exit_code == 0 else result.output


def unknown_settings(environment: Mapping[str, Any]) -> Iterator[str]:
    """Yield the variables of Unveil and Prefect that neither would read."""
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_valid_setting_names

    from flows.settings import RunSettings

    known = {f"UNVEIL_{name.upper()}" for name in RunSettings.model_fields}
    elsewhere = {"UNVEIL_INDEX_TOKEN", "UNVEIL_NOTIFY_WEBHOOK", "UNVEIL_NOTIFY_BLOCK"}
    prefect = set(_get_valid_setting_names(Settings))
    for name in environment:
        if (name.startswith("UNVEIL_") and name not in known | elsewhere) or (
            name.startswith("PREFECT_") and not name.startswith("PREFECT_INTEGRATIONS_") and name not in prefect
        ):
            yield name
