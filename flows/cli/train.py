"""`unveil train`: train a model on scenes or folders of pairs; `unveil data check`: is a folder fit for it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import options as o
from flows.cli.console import errors, output, progress_bar, show
from flows.errors import EXIT_INVALID

if TYPE_CHECKING:
    from de_model.data.check import Report as DataReport
    from flows.models.tracking import Tracking
    from flows.models.training_request import TrainingReport


_PANEL = "How to train"


def train(
    out: Annotated[Path, typer.Option("--out", help="Weights file to write (safetensors).")],
    cells: Annotated[
        list[str] | None, typer.Option("--cell", help="Grid square, e.g. MGRS-33TWM; may be given several times.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of RICE, CUHK-CR or pairs in cloud/ and label/, not scenes."),
    ] = None,
    places: Annotated[
        Path | None,
        typer.Option("--places", help="Listing of catalogs and image folders (YAML); trains the second edition."),
    ] = None,
    gsd: Annotated[
        float | None, typer.Option("--gsd", min=0.01, help="Pixel size, metres, of data that does not say.")
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="small (default), paper or tiny.")] = None,
    stages: Annotated[
        list[str] | None,
        typer.Option("--stage", help="`reference`, `coarse`, `fine`, `allocation` or `joint`; all of them."),
    ] = None,
    start: Annotated[Path | None, typer.Option("--from", help="Weights file to start from.")] = None,
    validation: Annotated[
        list[str] | None, typer.Option("--validate-cell", help="Grid square to validate on, never trained on.")
    ] = None,
    validate_every: Annotated[int, typer.Option("--validate-every", min=1, help="Steps between validations.")] = 250,
    effort: Annotated[float, typer.Option("--effort", min=1e-6, help="Factor on the number of steps.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, help="Patches per step.", rich_help_panel=_PANEL)
    ] = None,
    accumulate: Annotated[
        int, typer.Option("--accumulate", min=1, help="Work a batch in N pieces: less memory.", rich_help_panel=_PANEL)
    ] = 1,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", min=1e-9, help="Of every stage.", rich_help_panel=_PANEL)
    ] = None,
    decay: Annotated[
        str, typer.Option("--decay", help="cosine, or constant as published.", rich_help_panel=_PANEL)
    ] = "cosine",
    reference: Annotated[
        str | None, typer.Option("--reference", help="light, mprnet or msda; the preset's own.", rich_help_panel=_PANEL)
    ] = None,
    weight_mode: Annotated[
        str, typer.Option("--weight-mode", help="clamp as published, or bounded.", rich_help_panel=_PANEL)
    ] = "clamp",
    device: o.Device = None,
    work: Annotated[Path | None, typer.Option("--work", help="Folder that a stop is continued from.")] = None,
    save_every: Annotated[int, typer.Option("--save-every", min=1, help="Steps between saved states.")] = 100,
    mlflow_uri: Annotated[str | None, typer.Option("--mlflow-uri", help="MLflow server or sqlite:///PATH.")] = None,
    mlflow: Annotated[bool, typer.Option("--mlflow/--no-mlflow", help="Track the run in MLflow.")] = True,
    state_dir: o.StateDir = None,
    source: o.Source = None,
    collection: o.Collection = None,
    interval: o.Interval = None,
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
    from de_model.presets import ReferenceKind
    from de_model.training.stages import Decay, Stage, TrainingOptions
    from de_model.weighting import WeightMode
    from flows.cli.training_bars import stage_bars
    from flows.models.training import train_model
    from flows.models.training_places import read_listing
    from flows.models.training_request import TrainingRequest, preset_for

    options = TrainingOptions(
        seed=seed,
        decay=o.choice(Decay, decay, "--decay"),
        accumulate=accumulate,
    )
    request = TrainingRequest(
        scenes=o.scenes(cells or [], source, collection, interval),
        folder=data if places is None else None,
        gsd_m=gsd,
        places=None if places is None else read_listing(places, data),
        out=out,
        work=work or out.with_suffix(".work"),
        validation_cells=tuple(validation or ()),
        validate_every=validate_every,
        preset=preset_for(preset, start),
        stages=tuple(o.choice(Stage, name, "--stage") for name in stages or ()),
        start=start,
        effort=effort,
        batch=batch,
        learning_rate=learning_rate,
        reference=None if reference is None else o.choice(ReferenceKind, reference, "--reference"),
        weight_mode=o.choice(WeightMode, weight_mode, "--weight-mode"),
        options=options,
        save_every=save_every,
        device=_device(device),
        tracking=_tracking(mlflow, mlflow_uri, state_dir),
    )
    with stage_bars() as bars:
        report = train_model(request, [bars], lambda line: errors.print(line, markup=False))
    show(report.as_record(), as_json, lambda: _print_report(report))


def _print_report(report: TrainingReport) -> None:
    from flows.cli.training_bars import terms

    for stage in report.stages:
        scores = terms(stage.losses) + (f"; validation {terms(stage.validation)}" if stage.validation else "")
        line = "finished before" if stage.before else f"{stage.images_per_s:.1f} images/s, {scores}"
        output.print(f"{stage.stage}: {stage.steps} steps, {line}", markup=False)
    output.print(
        f"{report.weights} holds preset {report.card.preset}, trained on {report.card.trained_on}.", markup=False
    )


def _device(name: str | None) -> str:
    """Return `cpu` or `cuda`."""

    import torch

    from flows.settings import Device

    chosen = o.choice(Device, name or "auto", "--device")
    if chosen is Device.AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(chosen)


def _tracking(wanted: bool, uri: str | None, state_dir: Path | None) -> Tracking | None:
    """Return where the registry of the other commands is, so that all trainings can be compared in one place."""
    from flows.models.registry import Registry
    from flows.models.tracking import Tracking

    if not wanted:
        return None
    settings = o.settings(mlflow_uri=uri, state_dir=state_dir)
    registry = Registry(settings.state, settings.mlflow_uri)
    return Tracking(registry.uri, registry.artifact_root)


app = typer.Typer(help="Training data on disk.", no_args_is_help=True)


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
    from de_model.data.check import check_folder
    from flows.progress import report_progress

    with progress_bar():
        report = check_folder(folder, pixels=not names_only, on_pair=partial(report_progress, f"reading {folder.name}"))
    show(_document_of(report), as_json, lambda: _print_findings(report))
    if not report.usable:
        raise typer.Exit(EXIT_INVALID)


def _document_of(report: DataReport) -> dict[str, object]:
    return {
        "folder": str(report.folder),
        "usable": report.usable,
        "pairs": [{"dataset": c.dataset, "split": c.split, "pairs": c.pairs} for c in report.counts],
        "findings": [{"severity": f.severity, "problem": f.problem, "message": f.message} for f in report.findings],
    }


def _print_findings(report: DataReport) -> None:
    for count in report.counts:
        output.print(f"{count.dataset} {count.split or ''}: {count.pairs} pairs", markup=False)
    for finding in report.findings:
        output.print(f"{finding.severity}: {finding.message}", markup=False, soft_wrap=True)
    verdict = "can be used" if report.usable else "cannot be used as it is"
    output.print(f"{report.folder} {verdict}.", markup=False, soft_wrap=True)
