"""Commands around the model: evaluate, bench."""

from __future__ import annotations

import json
from datetime import date
from enum import StrEnum, unique
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli import options as o
from flows.cli.console import output, print_json, progress_bar

#: The cloudy and the clear dates of the sample.
_TARGETS, _TRUTHS = ("2023-08-18", "2023-08-10"), ("2023-08-15", "2023-08-13")


@unique
class BenchKind(StrEnum):
    """What can be measured."""

    DEMO = "demo"
    MODEL = "model"


Report = Annotated[Path | None, typer.Option("--out", help="Folder for the results page; printed when left out.")]


def evaluate_model(
    cells: o.Cells,
    targets: Annotated[list[str], typer.Option("--target", help="Cloudy date.", default_factory=lambda: [*_TARGETS])],
    truths: Annotated[list[str], typer.Option("--truth", help="Clear date.", default_factory=lambda: [*_TRUTHS])],
    weights: Annotated[Path | None, typer.Option("--weights", help="Weights file; the shipped one.")] = None,
    out: Report = None,
    source: o.Source = None,
    collection: o.Collection = None,
    interval: o.Interval = None,
    as_json: o.AsJson = False,
) -> None:
    """Compare DE with its own reference and with simpler ways, in whole cells of real pairs (a quarter of an hour).

    Example:

        unveil evaluate model --cell MGRS-33TWL --out results
    """
    from de_model import checkpoint
    from flows.loading import load_settings
    from flows.models.evaluation import as_markdown, as_record, evaluate_cell, mean_scores
    from flows.restoration import RestorationOptions
    from flows.stacks import stacks_of

    path = weights or checkpoint.shipped_weights()
    enhancer = checkpoint.load(path)
    options: RestorationOptions = load_settings().restoration
    alone = load_settings(None, {"prior": "none"}).restoration.sampling
    scenes = o.scenes(cells, source, collection, interval)
    with progress_bar():
        cloudy, clear = [_date(text) for text in targets], [_date(text) for text in truths]
        results = [
            result
            for stack in stacks_of(scenes)
            for result in evaluate_cell(stack, cloudy, clear, enhancer, options, alone)
        ]
    command = "unveil evaluate model " + " ".join(f"--cell {cell}" for cell in cells)
    page = as_markdown(results, command, f"{path.name} (sha256 {checkpoint.sha256_of(path)[:12]})")
    if out is not None:
        _write(out / "model.md", page)
    if as_json:
        print_json({str(c): as_record(s) for c, s in mean_scores(results).items()})
    elif out is None:
        output.print(page, markup=False)


def bench(
    what: Annotated[BenchKind, typer.Argument(help="demo or model.")] = BenchKind.DEMO,
    out: Report = None,
    as_json: o.AsJson = False,
) -> None:
    """Measure `unveil demo` (time and memory of a first and a second run), or the model (time, memory, arithmetic).

    `model` measures the presets small and paper on the CPU, and on the GPU where there is one, against the fastest
    matrix product of the same run; it takes some minutes on two cores.

    Examples (made docs/results/demo.md and docs/results/model.md):

        unveil bench demo --out docs/results

        unveil bench model --out docs/results
    """
    with progress_bar():
        page, record = _bench_model() if what is BenchKind.MODEL else _bench_demo()
    if out is not None:
        _write(out / f"{what}.md", page)
        if what is BenchKind.MODEL:
            _write(out / "model.json", json.dumps(record, indent=2) + "\n")
    if as_json:
        print_json(record)
    elif out is None:
        output.print(page, markup=False)


def _bench_demo() -> tuple[str, Any]:
    from dataclasses import asdict

    from flows.bench.demo import as_markdown, bench_demo

    measurements = bench_demo()
    return as_markdown(measurements), [asdict(m) for m in measurements]


def _bench_model() -> tuple[str, Any]:
    from flows.bench.model import as_markdown, as_record, bench_model

    measured = bench_model()
    return as_markdown(measured), as_record(measured)


def _date(text: str) -> date:
    from flows.errors import InvalidSettings

    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InvalidSettings(f"Date {text} is not understood; write 2023-08-18.") from error


def _write(path: Path, page: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, "utf-8")
    output.print(f"{path} written.", markup=False)
