"""The command that compares DE with its own reference in whole cells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import options as o
from flows.cli.console import output, print_json, progress_bar

#: The cloudy and the clear dates of the sample.
_TARGETS, _TRUTHS = ("2023-08-18", "2023-08-10"), ("2023-08-15", "2023-08-13")


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
    from flows.models.evaluation import as_markdown, as_record, evaluate_cell, mean_scores
    from flows.models.usage import alone, in_products
    from flows.stacks import stacks_of

    path = weights or checkpoint.shipped_weights()
    enhancer = checkpoint.load(path)
    options, single = in_products(enhancer.card), alone(enhancer.card)
    scenes = o.scenes(cells, source, collection, interval)
    with progress_bar():
        cloudy, clear = [o.day(text) for text in targets], [o.day(text) for text in truths]
        results = [
            result
            for stack in stacks_of(scenes)
            for result in evaluate_cell(stack, cloudy, clear, enhancer, options, single)
        ]
    given = [("cell", cells), ("target", targets), ("truth", truths)]
    command = " ".join(["unveil evaluate model", *(f"--{name} {value}" for name, values in given for value in values)])
    page = as_markdown(results, command, f"{path.name} (sha256 {checkpoint.sha256_of(path)[:12]})")
    if out is not None:
        _write(out / "pairs.md", page)
    if as_json:
        print_json({str(c): as_record(s) for c, s in mean_scores(results).items()})
    elif out is None:
        output.print(page, markup=False)


def _write(path: Path, page: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, "utf-8")
    output.print(f"{path} written.", markup=False)
