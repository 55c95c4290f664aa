"""infra/compose/compose.yaml as data, and its services as processes on loopback: there is no container engine here."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.command import ROOT, environment
from tests.prefect_service import end, poll

FOLDER = ROOT / "infra" / "compose"
#: `${NAME}`, `${NAME:-default}` and `${NAME:?what to do}` of Compose.
REFERENCE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<text>[^}]*))?\}")
#: Programs of the image, as modules of this environment.
_MODULES = {"prefect": "prefect", "mlflow": "mlflow", "unveil": "flows.cli"}


def documents(path: Path = FOLDER / "compose.yaml") -> dict[Path, dict[str, Any]]:
    """Return a Compose file and those that it includes, by path."""
    document = yaml.safe_load(path.read_text("utf-8"))
    found = {path: document}
    for name in document.get("include", []):
        found |= documents((path.parent / name).resolve())
    return found


def services() -> dict[str, dict[str, Any]]:
    """Return all services by name, anchors and merges resolved, variables not."""
    return {name: each for document in documents().values() for name, each in document["services"].items()}


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """Return a value with its variables replaced, as Compose does; an unset one without default is a KeyError."""

    def value(match: re.Match[str]) -> str:
        given = variables.get(match["name"])
        return given or (match["text"] if match["kind"] == ":-" else variables[match["name"]])

    return REFERENCE.sub(value, text)


@dataclass(slots=True)
class ProcessStack:
    """Runs services as processes; `places` turns names of the containers' network and file system into ours."""

    home: Path
    variables: Mapping[str, str]
    #: Replaced in commands and environment; of two that begin at the same place the first.
    places: Mapping[str, str]
    #: Environment that stands for the network: ports that no address names.
    extra: Mapping[str, str] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def command(self, name: str) -> list[str]:
        """Return the command of a service."""
        return self._argv(services()[name]["command"])

    def environment(self, name: str) -> dict[str, str]:
        """Return its environment: nothing of this machine, what the image sets, what the file says."""
        said = {key: self._here(str(value)) for key, value in services()[name].get("environment", {}).items()}
        image = {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        return environment(self.home / "prefect", image | said | dict(self.extra))

    def run(self, name: str, seconds: float = 300) -> str:
        """Run a service that ends, and return what it printed."""
        done = subprocess.run(
            self.command(name), cwd=ROOT, env=self.environment(name), capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, name: str, seconds: float = 300) -> None:
        """Start a service and wait until its own health check passes."""
        with (self.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.command(name), cwd=ROOT, env=self.environment(name), stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        poll(lambda: self.healthy(name) or None, f"{name} is not healthy: {self.home / name}.log", seconds)

    def healthy(self, name: str) -> bool:
        """Run the health check of a service."""
        process = self.running[name]
        assert process.poll() is None, (self.home / f"{name}.log").read_text()[-2000:]
        kind, *check = services()[name]["healthcheck"]["test"]
        assert kind == "CMD"
        return subprocess.run(self._argv(check), capture_output=True, timeout=60, check=False).returncode == 0

    def stop(self) -> None:
        """End all, the last one first."""
        for process in reversed(self.running.values()):
            end(process)

    def _argv(self, words: list[str]) -> list[str]:
        program, *rest = (self._here(word) for word in words)
        module = _MODULES.get(program)
        return [sys.executable, *(("-m", module) if module else ()), *rest]

    def _here(self, text: str) -> str:
        names = "|".join(re.escape(name) for name in self.places)
        # First the places, which must not change what the variables hold.
        return interpolated(re.sub(names, lambda match: self.places[match[0]], text), self.variables)
