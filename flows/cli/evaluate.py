"""`unveil evaluate product` and `unveil calibrate`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli import options as o
from flows.cli.console import output, print_json, progress_bar
from flows.progress import Event

if TYPE_CHECKING:
    from flows.models.evaluation_cases import Case

#: The cloudy and the clear dates of the sample.
_TARGETS, _TRUTHS = ("2023-08-18", "2023-08-10"), ("2023-08-15", "2023-08-13", "2023-08-20")
#: Nothing is judged on the cell that the shipped weights were trained on.
_JUDGED, _FITTED = ("MGRS-33TWL",), ("MGRS-33TWM",)

app = typer.Typer(help="Judge the product against a truth that was withheld.", no_args_is_help=True)

Report = Annotated[Path | None, typer.Option("--out", help="Folder for the results page; printed when left out.")]
Weights = Annotated[Path | None, typer.Option("--weights", help="Weights file; the shipped one.")]
Targets = Annotated[list[str], typer.Option("--target", help="Cloudy date.", default_factory=lambda: [*_TARGETS])]
Truths = Annotated[list[str], typer.Option("--truth", help="Clear date.", default_factory=lambda: [*_TRUTHS])]
Judged = Annotated[
    list[str], typer.Option("--cell", help="Grid square, e.g. MGRS-33TWL.", default_factory=lambda: [*_JUDGED])
]
Fitted = Annotated[
    list[str], typer.Option("--cell", help="Grid square, e.g. MGRS-33TWM.", default_factory=lambda: [*_FITTED])
]


@app.command()
def product(
    cells: Judged,
    targets: Targets,
    truths: Truths,
    weights: Weights = None,
    out: Report = None,
    source: o.Source = None,
    collection: o.Collection = None,
    interval: o.Interval = None,
    as_json: o.AsJson = False,
) -> None:
    """Compare the product with simpler ways to fill clouds, in transplanted clouds and in real pairs.

    Example (made docs/results/product.md):

        unveil evaluate product --out docs/results
    """
    from dataclasses import replace

    from de_model import checkpoint
    from de_model.calibration import calibration_of
    from flows.models.product_evaluation import evaluate_cases
    from flows.models.product_page import as_markdown, as_records, write_plot
    from flows.models.usage import alone, in_products
    from flows.restoration import intervals_of

    path = weights or checkpoint.shipped_weights()
    enhancer = checkpoint.load(path)
    options = replace(in_products(enhancer.card), intervals=intervals_of(calibration_of(path)))
    cases = _cases(o.scenes(cells, source, collection, interval), targets, truths)
    with progress_bar() as show:
        figures = list(evaluate_cases(cases, enhancer, options, alone(enhancer.card), _teller(show)))
    page = as_markdown(figures, "unveil evaluate product", f"{path.name} (sha256 {checkpoint.sha256_of(path)[:12]})")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_plot(figures, out / "product.png")
        (out / "product.md").write_text(page, "utf-8")
        output.print(f"{out / 'product.md'} written.", markup=False)
    if as_json:
        print_json(as_records(figures))
    elif out is None:
        output.print(page, markup=False)


def calibrate(
    cells: Fitted,
    targets: Targets,
    truths: Truths,
    weights: Weights = None,
    source: o.Source = None,
    collection: o.Collection = None,
    interval: o.Interval = None,
    as_json: o.AsJson = False,
) -> None:
    """Fit the 90 % intervals of a model and write them beside its weights.

    Use cells that the model was not trained on. Example:

        unveil calibrate --cell MGRS-33TWL
    """
    from dataclasses import asdict

    from de_model import checkpoint
    from de_model.calibration import calibration_path, require_apart
    from flows.models.calibration import fit_calibration
    from flows.models.usage import alone, in_products

    path = weights or checkpoint.shipped_weights()
    enhancer = checkpoint.load(path)
    require_apart(enhancer.card, cells)
    cases = [
        case for case in _cases(o.scenes(cells, source, collection, interval), targets, truths) if case.donors == "all"
    ]
    fitted_on = f"{', '.join(cells)}: {len(cases)} cases, transplanted clouds and real pairs"
    with progress_bar() as show:
        options, single = in_products(enhancer.card), alone(enhancer.card)
        table = fit_calibration(cases, enhancer, options, single, checkpoint.sha256_of(path), fitted_on, _teller(show))
    table.save(calibration_path(path))
    if as_json:
        print_json(asdict(table))
    else:
        output.print(f"{calibration_path(path)} written.", markup=False)


def _cases(scenes: Any, targets: list[str], truths: list[str]) -> list[Case]:
    from flows.models.evaluation_cases import index_on, real_cases, transplanted_cases
    from flows.stacks import stacks_of

    cases: list[Case] = []
    for stack in stacks_of(scenes):
        cloudy, clear = ([index_on(stack, _date(text)) for text in texts] for texts in (targets, truths))
        cases += [*transplanted_cases(stack, cloudy, clear), *real_cases(stack, cloudy, clear)]
    return cases


def _teller(show: Callable[[Event], None]) -> Callable[[str, int, int], None]:
    return lambda what, done, total: show(Event(what, done, total))


def _date(text: str) -> date:
    from flows.errors import InvalidSettings

    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise InvalidSettings(f"Date {text} is not understood; write 2023-08-18.") from error
