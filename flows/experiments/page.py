"""The files of an experiment: CSV, picture, and a page that says how they came about."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from de_model import checkpoint
from flows.bench.machine import machine
from flows.experiments.chart import draw
from flows.experiments.setting import Experiment, Findings, Setting
from stac.errors import NotWritable


@dataclass(frozen=True, slots=True)
class Written:
    """Where the files are."""

    page: Path
    table: Path
    picture: Path


def write(experiment: Experiment, setting: Setting, findings: Findings, command: str, folder: Path) -> Written:
    """Write the files of an experiment, the page last: what it names is there.

    Raises:
        NotWritable: the folder cannot be written.
    """
    written = Written(*(folder / f"{experiment.name}.{suffix}" for suffix in ("md", "csv", "png")))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(written.table, findings.table.csv().encode())
        _replace(written.picture, draw(findings.panels))
        _replace(written.page, markdown(experiment, setting, findings, command).encode())
    except OSError as error:
        raise NotWritable(f"{folder} cannot be written ({error.strerror or error}); choose another --out.") from error
    return written


def markdown(experiment: Experiment, setting: Setting, findings: Findings, command: str) -> str:
    """Return the page of an experiment."""
    name, made_with = experiment.name, f"{_model(experiment, setting)}; seed {setting.seed}"
    parts = [
        f"# {name}",
        experiment.question,
        f"Command: `{command}`; {datetime.now(UTC):%Y-%m-%d}; {machine()}; {made_with}.",
        findings.method,
        findings.table.markdown(),
        f"![{experiment.question}]({name}.png)",
        f"What is seen: {findings.seen}",
    ]
    return "\n\n".join(parts) + "\n"


def _model(experiment: Experiment, setting: Setting) -> str:
    parts = []
    if experiment.judges:
        parts.append(f"weights {setting.weights.name} (sha256 {checkpoint.sha256_of(setting.weights)[:12]})")
    if experiment.trains:
        parts.append(f"preset {setting.preset}, {setting.steps} steps a stage, trained by the command itself")
    return "; ".join(parts)


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
