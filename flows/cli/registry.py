"""Commands of the model registry: models, register, promote, rollback, retrain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli import options as o
from flows.cli.console import output, print_json, print_models, progress_bar

if TYPE_CHECKING:
    from flows.models.contest import Contest
    from flows.models.gates import Gates, Verdict
    from flows.models.registry import Registry
    from flows.models.version import ModelVersion

_TARGETS, _TRUTHS = ("2023-08-18", "2023-08-10"), ("2023-08-15", "2023-08-13")
_CELL = "MGRS-33TWL"

Name = Annotated[str, typer.Option("--name", help="Name of the registered model.")]
MlflowUri = Annotated[str | None, typer.Option("--mlflow-uri", help="MLflow server or database; a local one.")]


def models(
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
    registry = _registry(out, state_dir, mlflow_uri)
    with progress_bar():
        registry.ensure_shipped()
        versions = registry.versions(name)
    rows = [
        {"version": v.version, "aliases": list(v.aliases), "created": v.created.isoformat(timespec="seconds")}
        | {"tags": dict(v.tags)}
        for v in versions
    ]
    if as_json:
        print_json(rows)
    else:
        print_models(rows, name)


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
        print_json({"version": version.version, "sha256": version.sha256, "uri": version.uri})
    else:
        output.print(f"{version.uri} is the challenger; `unveil promote` compares it with the champion.", markup=False)


def promote(
    version: Annotated[str | None, typer.Argument(help="Version; the challenger when left out.")] = None,
    name: Name = "unveil-de",
    cells: Annotated[list[str] | None, typer.Option("--cell", help=f"Square of the contest; {_CELL}.")] = None,
    targets: Annotated[list[str] | None, typer.Option("--target", help="Cloudy date; those of the sample.")] = None,
    truths: Annotated[list[str] | None, typer.Option("--truth", help="Clear date; those of the sample.")] = None,
    gates: Annotated[Path | None, typer.Option("--gates", help="YAML file with limits.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Without a contest; the reason is kept.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare and judge, but move no alias.")] = False,
    out: o.Out = None,
    state_dir: o.StateDir = None,
    mlflow_uri: MlflowUri = None,
    as_json: o.AsJson = False,
) -> None:
    """Compare the challenger with the champion on ground neither was trained on; promote it if it passes the gates.

    The champion until now becomes `previous`. Runs in progress keep the version they began with.

    Example:

        unveil promote --cell MGRS-33TWL --target 2023-08-18 --truth 2023-08-15
    """
    from dataclasses import asdict

    from flows.models import promotion
    from flows.models.gates import load_gates

    registry, limits = _registry(out, state_dir, mlflow_uri), load_gates(gates)
    with progress_bar():
        registry.ensure_shipped()
        wanted = registry.resolve(f"models:/{name}/{version}" if version else f"models:/{name}@{promotion.CHALLENGER}")
        contest = verdict = None
        if not force:
            contest, verdict = _contest(
                registry, wanted, cells or [_CELL], targets or [*_TARGETS], truths or [*_TRUTHS], limits
            )
        moved = None
        if (verdict is None or verdict.passed) and not dry_run:
            moved = promotion.promote(registry, wanted, _why(contest))
    record: dict[str, Any] = {
        "version": wanted.version,
        "contest": None if contest is None else asdict(contest),
        "reasons": [] if verdict is None else list(verdict.reasons),
        "promotion": None if moved is None else asdict(moved),
    }
    _tell(record, contest, as_json)
    if verdict is not None and not verdict.passed:
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
        summary = flow(settings.model_dump(mode="json"))
    if as_json:
        print_json(as_record(summary))
    else:
        output.print(as_markdown(summary), markup=False)


def _registry(out: str | None, state_dir: Path | None, mlflow_uri: str | None) -> Registry:
    from flows.loading import load_settings
    from flows.models.registry import Registry

    settings = load_settings(overrides=o.overrides(out=out, state_dir=state_dir, mlflow_uri=mlflow_uri))
    return Registry(settings.state, settings.mlflow_uri)


def _contest(
    registry: Registry, wanted: ModelVersion, cells: list[str], targets: list[str], truths: list[str], limits: Gates
) -> tuple[Contest, Verdict]:
    from flows.loading import load_settings
    from flows.models.contest import cases_on, compare
    from flows.models.gates import judge
    from flows.models.registry import CHAMPION
    from flows.stacks import stacks_of

    champion = registry.resolve(f"models:/{wanted.name}@{CHAMPION}")
    sampling = load_settings(None, {"prior": "none"}).restoration.sampling
    cloudy, clear = ([o.day(text) for text in texts] for texts in (targets, truths))
    cases = cases_on(stacks_of(o.scenes(cells, None, None, None)), cloudy, clear)
    contest = compare(registry.weights(champion), registry.weights(wanted), cases, sampling)
    return contest, judge(contest, limits)


def _why(contest: Contest | None) -> str:
    return "by hand, without a contest" if contest is None else contest.sentence


def _tell(record: dict[str, Any], contest: Contest | None, as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    if contest is not None:
        output.print(f"Against the champion: {_why(contest)}; time {contest.time_ratio:.2f} times.", markup=False)
    for reason in record["reasons"]:
        output.print(f"Refused: {reason}", markup=False)
    if record["promotion"]:
        output.print(f"Version {record['version']} is the champion.", markup=False)
