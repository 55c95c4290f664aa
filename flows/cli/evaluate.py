"""What a model is worth, and how sure: `unveil evaluate`, `unveil calibrate`, `unveil drift`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import options as o
from flows.cli.console import output, print_json, print_table, progress_bar, show, styled
from flows.cli.setting_options import Given, Taken, part_of, takes_settings
from flows.errors import EXIT_FAILED

if TYPE_CHECKING:
    from flows.drift.compare import DriftReport
    from flows.models.evaluation import Case
    from flows.planning.search import SceneSet
    from flows.settings import RunSettings

#: Nothing is judged on the cell that the shipped weights were trained on, and nothing calibrated on the judged one.
_JUDGED, _FITTED = ("MGRS-33TWL",), ("MGRS-33TWM",)

Report = Annotated[Path | None, typer.Option("--out", help="Folder for the report; printed when left out.")]
Weights = Annotated[Path | None, typer.Option("--weights", help="Weights file; the shipped one.")]
Window = Annotated[int, typer.Option("--window", min=64, help="Side of the part restored without other dates, px.")]
Most = Annotated[int | None, typer.Option("--cases", min=1, help="Cases at most; all when left out.")]
_VERDICTS = {"stable": "green", "watch": "yellow", "alarm": "red"}


@takes_settings(Taken.SCENES)
def evaluate(
    given: Given,
    weights: Weights = None,
    window: Window = 256,
    most: Most = None,
    record: Annotated[bool, typer.Option("--record", help="Write the validation record beside the weights.")] = False,
    out: Report = None,
    as_json: o.AsJson = False,
) -> None:
    """Compare the model with trivial ways to fill clouds, by kind of pixel, against a truth that was withheld.

    On MGRS-33TWL of the sample unless another square is named. Example:

        unveil evaluate --cell MGRS-33TWL --record
    """
    from itertools import islice

    from de_model import checkpoint
    from de_model.validation import validation_path
    from flows.models.evaluation import evaluate as run
    from flows.models.evaluation_report import metrics_of, sentences, tables
    from flows.planning.search import SceneSet
    from flows.processing.model import in_products
    from stac.io.files import require_writable, write_bytes

    path = weights or checkpoint.shipped_weights()
    if out is not None:
        require_writable(out)
    if record:
        require_writable(path.parent)
    cases = islice(_cases(part_of(given, SceneSet, cells=_JUDGED), window), most)
    with progress_bar():
        found = run(path, cases, in_products)
    if record:
        found.record().save(validation_path(path))
    said = sentences(found)
    page = "\n\n".join(["# What fills clouds best", "\n".join(f"- {each}" for each in said), tables(found)]) + "\n"
    if out is not None:
        write_bytes(out / "evaluation.md", page.encode())
        output.print(f"{out / 'evaluation.md'} written.", markup=False)
    if as_json:
        print_json({"sentences": said, "metrics": metrics_of(found), "cases": [case.name for case in found.cases]})
    elif out is None:
        output.print(page, markup=False)


@takes_settings(Taken.SCENES)
def calibrate(
    given: Given,
    weights: Weights = None,
    window: Window = 128,
    as_json: o.AsJson = False,
) -> None:
    """Fit the 90 % intervals of a model and write them beside its weights.

    Use cells that the model was not trained on, and others than those it is judged on; MGRS-33TWM of the sample when
    left out. Example:

        unveil calibrate --cell MGRS-33TWL
    """

    from de_model import checkpoint
    from de_model.calibration import calibration_path, require_apart
    from flows.models.evaluation import fit_calibration
    from flows.planning.search import SceneSet
    from stac.io.files import require_writable

    scenes = part_of(given, SceneSet, cells=_FITTED)
    path = weights or checkpoint.shipped_weights()
    require_apart(checkpoint.read_card(path), scenes.cells)
    require_writable(path.parent)
    cases = list(_cases(scenes, window))
    fitted_on = f"{', '.join(scenes.cells)}: {len(cases)} cases, transplanted clouds and real pairs"
    with progress_bar():
        table = fit_calibration(path, cases, fitted_on)
    table.save(calibration_path(path))
    show(table, as_json, f"{calibration_path(path)} written.")


def _cases(scenes: SceneSet, window: int) -> Iterator[Case]:
    from flows.models.evaluation import cases_of
    from flows.planning.search import stacks_of

    return cases_of(stacks_of(scenes), window)


@takes_settings("out", "state_dir", "mlflow_uri", "model", Taken.SCENES)
def drift(
    given: Given,
    config: o.Config = None,
    last: Annotated[int | None, typer.Option("--last", min=1, help="Look at the last units; 20.")] = None,
    fail_on_alarm: Annotated[bool, typer.Option("--fail-on-alarm", help="Exit status 1 when it alarms.")] = False,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Make the baseline of a model from its training squares instead.")
    ] = False,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="With --baseline: a weights file instead of --model.")
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """Compare the last restored units with what their model was trained on.

    A new baseline is made of MGRS-33TWM of the sample unless other scenes are named. Example:

        unveil drift --out zagreb --last 10

        unveil drift --baseline --weights zagreb.safetensors --cell MGRS-33TWL --source zagreb-scenes/catalog.json
    """
    from flows.planning.search import SceneSet

    scenes = part_of(given, SceneSet, cells=_FITTED)
    settings = o.settings(config, **given, drift_last=last)
    if baseline:
        path = weights or _weights_of(settings, registered="model" in given)
        _make(scenes, path, settings, as_json)
    else:
        _look(settings, as_json, fail_on_alarm)


def _look(settings: RunSettings, as_json: bool, fail_on_alarm: bool) -> None:
    from flows.drift.compare import Verdict
    from flows.models.drift import look

    report = look(settings)
    show(report, as_json, lambda: _print_drift(report))
    if fail_on_alarm and report.verdict is Verdict.ALARM:
        raise typer.Exit(EXIT_FAILED)


def _weights_of(settings: RunSettings, *, registered: bool) -> Path:
    """Return the weights of the registered model where one was named, else those that ship."""
    from de_model.checkpoint import shipped_weights
    from flows.models.registry import Registry

    if not registered:
        return shipped_weights()
    registry = Registry.of(settings)
    return registry.weights(registry.resolve(settings.model))


def _make(scenes: SceneSet, path: Path, settings: RunSettings, as_json: bool) -> None:
    from de_model.checkpoint import read_card
    from de_model.inference.sampling import sampling_for
    from flows.drift.statistics import baseline_path
    from flows.models.drift import make_baseline
    from stac.io.files import require_writable

    require_writable(path.parent)
    options = settings.fitted_to(sampling_for(read_card(path))).restoration
    with progress_bar():
        made = make_baseline(scenes, path, options)
    made.save(baseline_path(path))
    show(
        {"path": str(baseline_path(path)), "parts": len(made.units), "pairs": list(made.pairs)},
        as_json,
        f"{baseline_path(path)} written: {len(made.units)} parts, {len(made.pairs)} pairs.",
    )


def _print_drift(report: DriftReport) -> None:
    heads = ("verdict", "feature", "here", "in training", "stability index", "shift")
    rows = []
    for feature in report.worst_first:
        here, training, index, index_alarm, shift, shift_alarm = feature.shown
        moved = (f"{index}\nalarm {index_alarm}", f"{shift}\nalarm {shift_alarm}")
        rows.append((styled(feature.verdict, _VERDICTS), feature.label, here, training, *moved))
    print_table(f"The last {report.units} units against the training set", heads, rows)
    for line in (*report.left_out, f"Trained on {report.training['made_of']}.", report.sentence):
        output.print(line, markup=False)
