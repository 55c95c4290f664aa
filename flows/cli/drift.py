"""`unveil drift`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import options as o
from flows.cli.console import output, print_table, progress_bar, show, styled
from flows.errors import EXIT_FAILED
from flows.progress import Event

if TYPE_CHECKING:
    from flows.drift.compare import DriftReport
    from flows.planning.search import SceneSet
    from flows.settings import RunSettings

_STYLES = {"stable": "green", "watch": "yellow", "alarm": "red"}


def drift(
    cells: Annotated[
        list[str], typer.Option("--cell", help="Square of a new baseline.", default_factory=lambda: ["MGRS-33TWM"])
    ],
    config: o.Config = None,
    out: o.Out = None,
    state_dir: o.StateDir = None,
    model: o.Model = None,
    last: Annotated[int | None, typer.Option("--last", min=1, help="Look at the last units; 20.")] = None,
    fail_on_alarm: Annotated[bool, typer.Option("--fail-on-alarm", help="Exit status 1 when it alarms.")] = False,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Make the baseline of a model from its training squares instead.")
    ] = False,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="With --baseline: a weights file instead of --model.")
    ] = None,
    source: o.Source = None,
    collection: o.Collection = None,
    interval: o.Interval = None,
    as_json: o.AsJson = False,
) -> None:
    """Compare the last restored units with what their model was trained on.

    Example:

        unveil drift --out zagreb --last 10

        unveil drift --baseline --weights zagreb.safetensors --cell MGRS-33TWL --source zagreb-scenes/catalog.json
    """

    settings = o.settings(config, out=out, state_dir=state_dir, model=model, drift_last=last)
    if baseline:
        path = weights or _weights_of(settings, registered=model is not None)
        _make(o.scenes(cells, source, collection, interval), path, settings, as_json)
    else:
        _look(settings, as_json, fail_on_alarm)


def _look(settings: RunSettings, as_json: bool, fail_on_alarm: bool) -> None:
    from flows.drift.compare import Verdict
    from flows.models.drift import look

    report = look(settings)
    show(report, as_json, lambda: _print(report))
    if fail_on_alarm and report.verdict is Verdict.ALARM:
        raise typer.Exit(EXIT_FAILED)


def _weights_of(settings: RunSettings, *, registered: bool) -> Path:
    """Return the weights of the registered model where one was named, else those that ship."""
    from de_model.checkpoint import shipped_weights
    from flows.models.registry import Registry

    if not registered:
        return shipped_weights()
    registry = Registry(settings.state, settings.mlflow_uri)
    return registry.weights(registry.resolve(settings.model))


def _make(scenes: SceneSet, path: Path, settings: RunSettings, as_json: bool) -> None:
    from de_model.checkpoint import read_card
    from flows.drift.baseline import baseline_path
    from flows.models.drift import make_baseline

    options = settings.fitted_to(read_card(path).scene).restoration
    with progress_bar() as on_event:
        made = make_baseline(scenes, path, options, lambda *event: on_event(Event(*event)))
    made.save(baseline_path(path))
    show(
        {"path": str(baseline_path(path)), "parts": len(made.units), "pairs": list(made.pairs)},
        as_json,
        f"{baseline_path(path)} written: {len(made.units)} parts, {len(made.pairs)} pairs.",
    )


def _print(report: DriftReport) -> None:
    from flows.reports.drift import shown_figures

    heads = ("verdict", "feature", "here", "in training", "stability index", "alarm", "shift", "alarm")
    rows = [(styled(f.verdict, _STYLES), f.label, *shown_figures(f)) for f in report.worst_first]
    print_table(f"The last {report.units} units against the training set", heads, rows)
    for line in (*report.left_out, f"Trained on {report.training['made_of']}.", report.sentence):
        output.print(line, markup=False)
