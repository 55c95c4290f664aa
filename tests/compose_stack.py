"""infra/compose/compose.yaml as data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

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
