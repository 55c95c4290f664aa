"""Commands of the model registry: models, register, promote, rollback, retrain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli import options as o
from flows.cli.console import output, print_gates, print_json, print_models, progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flows.models.contest import Case
    from flows.models.registry import Registry
    from flows.models.trial import Terms, Trial
    from flows.settings import RunSettings

_TARGETS, _TRUTHS = ("2023-08-18", "2023-08-10"), ("2023-08-15", "2023-08-13")
_CELL = "MGRS-33TWL"

Name = Annotated[str, typer.Option("--name", help="Name of the registered model.")]
MlflowUri = Annotated[str | None, typer.Option("--mlflow-uri", help="MLflow server or database; a local one.")]


def models(
    version: Annotated[str | None, typer.Argument(help="Show the gate table of this version only.")] = None,
    name: Name = "unveil-de",
    out: o.Out = None,
    state_dir: o.StateDir = None,
    mlflow_uri: MlflowUri = None,
    as_json: o.AsJson = False,
) -> None:
    """List the versions of the model: which makes today's mosaics, which did before, which waits, and why.

    Example:

        unveil models --out unveil-out
    """
    from flows.models.promotion import settle

    registry = _registry(out, state_dir, mlflow_uri)
    with progress_bar():
        registry.ensure_shipped()
        settle(registry, name)
        if version is not None:
            registry.resolve(f"models:/{name}/{version}")
        versions = [v for v in registry.versions(name) if version in (None, v.version)]
    rows: list[dict[str, Any]] = [
        {
            "version": v.version,
            "aliases": list(v.aliases),
            "created": v.created.isoformat(timespec="seconds"),
            "gates": json.loads(v.tags.get("unveil_gates", "null")),
            "tags": {tag: value for tag, value in v.tags.items() if tag != "unveil_gates"},
        }
        for v in versions
    ]
    if as_json:
        print_json(rows)
    elif version is None:
        print_models(rows, name)
    else:
        print_gates(rows[0], name)


def register(
    weights: Annotated[Path, typer.Argument(help="Weights file made by `unveil train`.")],
    name: Name = "unveil-de",
    out: o.Out = None,
    state_dir: o.StateDir = None,
    mlflow_uri: MlflowUri = None,
    as_json: o.AsJson = False,
) -> None:
    """Register weights as the next version of the model, and make it the challenger.

    Example:

        unveil register better.safetensors && unveil promote
    """
    from flows.models.promotion import nominate

    registry = _registry(out, state_dir, mlflow_uri)
    with progress_bar():
        registry.ensure_shipped()
        version = registry.register(weights, name)
        nominate(registry, version)
    if as_json:
        calibration = version.calibration or None
        print_json(
            {"version": version.version, "sha256": version.sha256, "uri": version.uri, "calibration": calibration}
        )
    else:
        if not version.calibration:
            output.print(
                "No calibration beside the weights: `unveil calibrate` first makes honest intervals.", markup=False
            )
        output.print(f"{version.uri} is the challenger; `unveil promote` compares it with the champion.", markup=False)


def promote(
    version: Annotated[str | None, typer.Argument(help="Version; the challenger when left out.")] = None,
    name: Name = "unveil-de",
    cells: Annotated[list[str] | None, typer.Option("--cell", help=f"Square of the contest; {_CELL}.")] = None,
    targets: Annotated[list[str] | None, typer.Option("--target", help="Cloudy date; those of the sample.")] = None,
    truths: Annotated[list[str] | None, typer.Option("--truth", help="Clear date; those of the sample.")] = None,
    gates: Annotated[Path | None, typer.Option("--gates", help="YAML file with limits.")] = None,
    window: Annotated[int, typer.Option("--window", min=64, help="Side of the part of each date, pixels.")] = 1024,
    shadow: Annotated[int, typer.Option("--shadow", min=0, help="Published scenes that both models make again.")] = 2,
    force: Annotated[bool, typer.Option("--force", help="Without a trial; the reason is kept.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare and judge, but move no alias.")] = False,
    out: o.Out = None,
    state_dir: o.StateDir = None,
    mlflow_uri: MlflowUri = None,
    as_json: o.AsJson = False,
) -> None:
    """Try the challenger against the champion; promote it if it passes the gates.

    Both restore ground that neither was trained on, and make the scenes published last again without publishing them.
    The champion until now becomes `previous`. Runs in progress keep the version they began with.

    Example:

        unveil promote --cell MGRS-33TWL --target 2023-08-18 --truth 2023-08-15
    """
    from dataclasses import asdict

    from flows.models import promotion
    from flows.models.model_item import publish_promoted
    from flows.models.registry import Registry
    from flows.models.trial import promote_if_gates_pass
    from flows.models.trial_report import as_json as gate_table
    from flows.models.trial_report import plain

    settings = _settings(out, state_dir, mlflow_uri)
    registry = Registry(settings.state, settings.mlflow_uri)
    cases = _cases(cells or [_CELL], targets or [*_TARGETS], truths or [*_TRUTHS], window)
    terms = _terms(settings, cases, gates, shadow)
    with progress_bar():
        registry.ensure_shipped()
        wanted = registry.resolve(f"models:/{name}/{version}" if version else f"models:/{name}@{promotion.CHALLENGER}")
        trial = None
        if force:
            moved = None if dry_run else promotion.promote(registry, wanted, "by hand, without a trial")
        else:
            decision = promote_if_gates_pass(registry, wanted, terms, move=not dry_run)
            trial, moved = decision.trial, decision.promotion
        if moved is not None:
            publish_promoted(settings, registry, wanted)
    record: dict[str, Any] = {
        "version": wanted.version,
        "contest": None if trial is None else asdict(trial.contest),
        "shadow": None if trial is None or trial.shadow is None else asdict(trial.shadow),
        "gates": None if trial is None else gate_table(trial.verdict),
        "reasons": [] if trial is None else list(trial.verdict.reasons),
        "promotion": None if moved is None else asdict(moved),
    }
    _tell(plain(record), trial, as_json)
    if record["reasons"]:
        raise typer.Exit(1)


def rollback(
    name: Name = "unveil-de",
    out: o.Out = None,
    state_dir: o.StateDir = None,
    mlflow_uri: MlflowUri = None,
    as_json: o.AsJson = False,
) -> None:
    """Make the previous champion the champion again.

    Example:

        unveil rollback
    """
    from dataclasses import asdict

    from flows.models import promotion

    registry = _registry(out, state_dir, mlflow_uri)
    with progress_bar():
        moved = promotion.rollback(registry, name)
    if as_json:
        print_json(asdict(moved))
    else:
        output.print(f"{name} version {moved.champion} is the champion again.", markup=False)


def retrain(
    config: o.Config = None,
    out: o.Out = None,
    state_dir: o.StateDir = None,
    mlflow_uri: MlflowUri = None,
    promotion: Annotated[
        str | None, typer.Option("--promotion", help="automatic: what passes the gates is promoted; manual.")
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """Fine-tune the champion on new cloudy/clear pairs, and compare; the flow of the weekly deployment.

    Pairs are mined from the squares that are not held out; without new ones nothing is trained. A training that was
    stopped is continued by the same command.

    Example:

        unveil retrain --config retrain.yaml --promotion automatic
    """
    from flows.loading import read_yaml
    from flows.retrain import as_markdown, as_record
    from flows.retrain import retrain as flow
    from flows.retraining.settings import load_retrain_settings
    from flows.services.prefect_server import prefect_api

    given = o.overrides(out=out, state_dir=state_dir, mlflow_uri=mlflow_uri, promotion=promotion)
    settings = load_retrain_settings(({} if config is None else read_yaml(config)) | given)
    with progress_bar(), prefect_api(settings.state):
        summary = flow(settings.shareable)
    if as_json:
        print_json(as_record(summary))
    else:
        output.print(as_markdown(summary), markup=False)


def _settings(out: str | None, state_dir: Path | None, mlflow_uri: str | None) -> RunSettings:
    from flows.loading import load_settings

    return load_settings(overrides=o.overrides(out=out, state_dir=state_dir, mlflow_uri=mlflow_uri))


def _registry(out: str | None, state_dir: Path | None, mlflow_uri: str | None) -> Registry:
    from flows.models.registry import Registry

    settings = _settings(out, state_dir, mlflow_uri)
    return Registry(settings.state, settings.mlflow_uri)


def _cases(cells: list[str], targets: list[str], truths: list[str], window: int) -> Iterator[Case]:
    from flows.models.contest import cases_on, windowed
    from flows.stacks import stacks_of

    cloudy, clear = ([o.day(text) for text in texts] for texts in (targets, truths))
    return windowed(cases_on(stacks_of(o.scenes(cells, None, None, None)), cloudy, clear), window)


def _terms(settings: RunSettings, cases: Iterator[Case], gates: Path | None, shadow: int) -> Terms:
    from flows.models.gates import load_gates
    from flows.models.trial import Terms
    from flows.models.usage import alone

    return Terms(
        cases=cases,
        sampling=alone,
        gates=load_gates(gates),
        run=settings if shadow else None,
        shadow_scenes=shadow,
    )


def _tell(record: dict[str, Any], trial: Trial | None, as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    if trial is not None:
        sentence, ratio = trial.contest.sentence, trial.contest.time_ratio
        output.print(f"Against version {trial.champion}: {sentence}; time {ratio:.2f} times.", markup=False)
    for reason in record["reasons"]:
        output.print(f"Refused: {reason}", markup=False)
    if record["promotion"]:
        output.print(f"Version {record['version']} is the champion.", markup=False)
