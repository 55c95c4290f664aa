"""The real command in a process of its own, as a person would run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: A corner of cell MGRS-33TWM whose cloudy dates hold clear pixels, pixels other dates saw, and some nobody saw.
TINY_BBOX = "15.43,46.52,15.50,46.56"
#: Few and small steps: the same code in seconds, with pictures nobody should look at.
TINY_SETTINGS = {"UNVEIL_STEPS": "2", "UNVEIL_SAMPLES": "2", "UNVEIL_TILE": "32", "UNVEIL_OVERLAP": "8"}
_FOREIGN = ("PREFECT", "MLFLOW", "UNVEIL_")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document that `--json` prints on stdout."""
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """The last line for people."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return lines[-1] if lines else ""


@dataclass(frozen=True, slots=True)
class Run:
    """A catalog, and how the command that made it ended."""

    root: Path
    outcome: Outcome
    #: Working directory and Prefect home of the command.
    home: Path


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which no setting of this machine reaches the command."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    ours = {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "200"}
    return kept | ours | dict(extra or {})


def start(
    *arguments: str | Path, home: Path, extra: Mapping[str, str] | None = None, before: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    """Start `unveil` in a process group of its own, as a terminal does; Ctrl-C works whatever we inherited."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if before is not None:
            before()

    home.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *(str(a) for a in arguments)],
        cwd=home,
        env=environment(home, extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=prepare,
    )


def unveil(
    *arguments: str | Path,
    home: Path,
    extra: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
    timeout: float = 580,
) -> Outcome:
    """Run `unveil` to its end."""
    process = start(*arguments, home=home, extra=extra, before=before)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return Outcome(process.returncode, out, err)
