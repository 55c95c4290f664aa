"""`unveil evaluate` and `unveil calibrate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import options as o
from flows.cli.console import output, print_json, progress_bar, show
from flows.progress import Event

if TYPE_CHECKING:
    from flows.models.evaluation_cases import Case
    from flows.planning.search import SceneSet

#: Nothing is judged on the cell that the shipped weights were trained on, and nothing calibrated on the judged one.
_JUDGED, _FITTED = ("MGRS-33TWL",), ("MGRS-33TWM",)

Report = Annotated[Path | None, typer.Option("--out", help="Folder for the report; printed when left out.")]
Weights = Annotated[Path | None, typer.Option("--weights", help="Weights file; the shipped one.")]
Window = Annotated[int, typer.Option("--window", min=64, help="Side of the part restored without other dates, px.")]
Most = Annotated[int | None, typer.Option("--cases", min=1, help="Cases at most; all when left out.")]
Judged = Annotated[
    list[str], typer.Option("--cell", help="Grid square, e.g. MGRS-33TWL.", default_factory=lambda: [*_JUDGED])
]
Fitted = Annotated[
    list[str], typer.Option("--cell", help="Grid square, e.g. MGRS-33TWM.", default_factory=lambda: [*_FITTED])
]


def evaluate(
    cells: Judged,
    weights: Weights = None,
    window: Window = 256,
    most: Most = None,
    record: Annotated[bool, typer.Option("--record", help="Write the validation record beside the weights.")] = False,
    out: Report = None,
    source: o.Source = None,
    collection: o.Collection = None,
    interval: o.Interval = None,
    as_json: o.AsJson = False,
) -> None:
    """Compare the model with trivial ways to fill clouds, by kind of pixel, against a truth that was withheld.

    Example:

        unveil evaluate --cell MGRS-33TWL --record
    """
    from itertools import islice

    from de_model import checkpoint
    from de_model.validation import validation_path
    from flows.models import evaluation as e
    from flows.processing.model import usual

    path = weights or checkpoint.shipped_weights()
    cases = islice(_cases(o.scenes(cells, source, collection, interval), window), most)
    with progress_bar():
        found = e.evaluate(e.Entrant.of(path), cases, usual)
    if record:
        found.record().save(validation_path(path))
    said = e.sentences(found)
    page = "\n\n".join(["# What fills clouds best", "\n".join(f"- {each}" for each in said), e.tables(found)]) + "\n"
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "evaluation.md").write_text(page, "utf-8")
        output.print(f"{out / 'evaluation.md'} written.", markup=False)
    if as_json:
        print_json({"sentences": said, "metrics": e.metrics_of(found), "cases": [case.name for case in found.cases]})
    elif out is None:
        output.print(page, markup=False)


def calibrate(
    cells: Fitted,
    weights: Weights = None,
    window: Window = 128,
    source: o.Source = None,
    collection: o.Collection = None,
    interval: o.Interval = None,
    as_json: o.AsJson = False,
) -> None:
    """Fit the 90 % intervals of a model and write them beside its weights.

    Use cells that the model was not trained on, and others than those it is judged on. Example:

        unveil calibrate --cell MGRS-33TWL
    """

    from de_model import checkpoint
    from de_model.calibration import calibration_path, require_apart
    from flows.models.calibration import fit_calibration
    from flows.processing.model import alone, in_products

    path = weights or checkpoint.shipped_weights()
    enhancer = checkpoint.load(path)
    require_apart(enhancer.card, cells)
    cases = list(_cases(o.scenes(cells, source, collection, interval), window))
    fitted_on = f"{', '.join(cells)}: {len(cases)} cases, transplanted clouds and real pairs"
    with progress_bar() as on_event:
        options, single = in_products(enhancer.card), alone(enhancer.card)
        table = fit_calibration(
            cases,
            enhancer,
            options,
            single,
            checkpoint.sha256_of(path),
            fitted_on,
            lambda *event: on_event(Event(*event)),
        )
    table.save(calibration_path(path))
    show(table, as_json, f"{calibration_path(path)} written.")


def _cases(scenes: SceneSet, window: int) -> Iterator[Case]:
    from flows.models.evaluation_cases import cases_of
    from flows.planning.search import stacks_of

    return cases_of(stacks_of(scenes), window)
