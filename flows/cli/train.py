"""`unveil train`: train a model on scenes or folders of pairs; `unveil data check`: is a folder fit for it."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import options as o
from flows.cli.console import errors, output, progress_bar, show
from flows.cli.setting_options import Given, Taken, part_of, takes_settings
from flows.errors import EXIT_INVALID

if TYPE_CHECKING:
    from de_model.data.readers import Report as DataReport
    from flows.models.training import TrainingReport

app = typer.Typer(help="Training data on disk.", no_args_is_help=True)


@takes_settings(Taken.TRAIN, "mlflow_uri", "state_dir")
def train(
    given: Given,
    mlflow: Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="Track the run in MLflow.")] = True,
    as_json: o.AsJson = False,
) -> None:
    """Train Diffusion Enhancement on the cloudy/clear pairs of a catalog's scenes or a data set, coarse to fine.

    The stages are `reference`, `coarse`, `fine`, `allocation`, `joint`. The same command continues after a stop, and
    ends with the same weights as if there had been none.

    Examples (`make train` names all options of the shipped weights):

        unveil train --cell MGRS-33TWM --out unveil-de-small.safetensors

        unveil train --places places.yaml --data ~/imagery --out unveil-de-small.safetensors

        unveil train --data ~/data/CUHK-CR1 --out cuhk.safetensors

        unveil train --cell MGRS-33TWM --stage allocation --from unveil-de-small.safetensors --out other.safetensors
    """
    from flows.models.training import train_model
    from flows.models.training_request import TrainingRequest

    request = part_of(given, TrainingRequest)
    if mlflow:
        # Where the registry of the other commands is, so that all trainings can be compared in one place.
        request = request.model_copy(update={"mlflow_uri": o.registry(given).uri})
    with progress_bar():
        report = train_model(request, lambda line: errors.print(line, markup=False))
    show(report.as_record(), as_json, lambda: _print_report(report))


def _print_report(report: TrainingReport) -> None:
    for stage in report.stages:
        figures = stage.losses | {f"validation {name}": value for name, value in stage.validation.items()}
        scores = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        line = "finished before" if stage.before else f"{stage.images_per_s:.1f} images/s, {scores}"
        output.print(f"{stage.stage}: {stage.steps} steps, {line}", markup=False)
    output.print(
        f"{report.weights} holds preset {report.card.preset}, trained on {report.card.trained_on}.", markup=False
    )


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder of RICE, CUHK-CR, or pairs in cloud/ and label/.")],
    names_only: Annotated[bool, typer.Option("--names-only", help="Open no picture: layout and names alone.")] = False,
    as_json: o.AsJson = False,
) -> None:
    """Name everything wrong with a data set: unpaired and broken files, wrong bands, the same image in two splits.

    Exit status 2 when something keeps the data from being used; warnings alone are 0.

    Example:

        unveil data check ~/data/C-CUHK
    """
    from de_model.data.readers import check_folder
    from flows.progress import report_progress

    with progress_bar():
        report = check_folder(folder, pixels=not names_only, on_pair=partial(report_progress, f"reading {folder.name}"))
    show(asdict(report) | {"usable": report.usable}, as_json, lambda: _print_findings(report))
    if not report.usable:
        raise typer.Exit(EXIT_INVALID)


def _print_findings(report: DataReport) -> None:
    for count in report.counts:
        output.print(f"{count.dataset} {count.split or ''}: {count.pairs} pairs", markup=False)
    for finding in report.findings:
        output.print(f"{finding.severity}: {finding.message}", markup=False, soft_wrap=True)
    verdict = "can be used" if report.usable else "cannot be used as it is"
    output.print(f"{report.folder} {verdict}.", markup=False, soft_wrap=True)
