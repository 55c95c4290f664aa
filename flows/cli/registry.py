"""Commands of the model registry: models, register, promote, rollback, retrain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.text import Text

from flows.cli import options as o
from flows.cli.console import output, print_json, print_table, progress_bar, show
from flows.cli.setting_options import Given, Taken, takes_settings

Name = Annotated[str, typer.Option("--name", help="Name of the registered model.")]


@takes_settings("out", "state_dir", "mlflow_uri")
def models(
    given: Given,
    version: Annotated[str | None, typer.Argument(help="Show the gate table of this version only.")] = None,
    name: Name = "unveil-de",
    as_json: o.AsJson = False,
) -> None:
    """List the versions of the model: which makes today's mosaics, which did before, which waits, and why.

    Example:

        unveil models --out unveil-out
    """
    registry = o.existing_registry(given)
    with progress_bar():
        registry.ensure_shipped()
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
    show(rows, as_json, lambda: _print_models(rows, name) if version is None else _print_gates(rows[0], name))


@takes_settings("out", "state_dir", "mlflow_uri")
def register(
    given: Given,
    weights: Annotated[Path, typer.Argument(help="Weights file made by `unveil train`.")],
    name: Name = "unveil-de",
    as_json: o.AsJson = False,
) -> None:
    """Register weights as the next version of the model, and make it the challenger.

    Example:

        unveil register better.safetensors && unveil promote
    """
    from flows.models.promotion import set_challenger
    from flows.models.version import CALIBRATION

    registry = o.registry(given)
    with progress_bar():
        registry.ensure_shipped()
        version = registry.register(weights, name)
        set_challenger(registry, version)
    calibration = version.checksum(CALIBRATION)
    if as_json:
        print_json(
            {
                "version": version.version,
                "sha256": version.sha256,
                "uri": version.uri,
                "calibration": calibration or None,
            }
        )
    else:
        if not calibration:
            output.print(
                "No calibration beside the weights: `unveil calibrate` first makes honest intervals.", markup=False
            )
        output.print(f"{version.uri} is the challenger; `unveil promote` compares it with the champion.", markup=False)


@takes_settings(Taken.RETRAIN)
def promote(
    given: Given,
    version: Annotated[str | None, typer.Argument(help="Version; the challenger when left out.")] = None,
    config: o.Config = None,
    force: Annotated[bool, typer.Option("--force", help="Without an evaluation; the reason is kept.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare and judge, but move no alias.")] = False,
    as_json: o.AsJson = False,
) -> None:
    """Try the challenger against the champion and trivial fillers; promote it if it passes the gates.

    Both restore ground of the area that retrainings watch (--config, as for `unveil retrain`), and make the scenes
    published last again without publishing them. The champion until now becomes `previous`.

    Example:

        unveil promote --config retrain.yaml
    """
    from flows.models.retrain_settings import load_retrain_settings

    # First: Prefect reads the login that is found here when it is imported.
    settings = load_retrain_settings(given, config)
    from flows.models.evaluation_report import record_of
    from flows.promote import as_markdown
    from flows.promote import promote as flow
    from flows.services.prefect_server import prefect_api

    with progress_bar(), prefect_api(settings.run_settings().state):
        summary = flow(cast(Any, settings.shareable), version, force, dry_run)
    record = record_of(summary, summary.judged) | {"reasons": list(summary.reasons)}
    show(record, as_json, as_markdown(summary))
    if summary.reasons:
        raise typer.Exit(1)


@takes_settings("out", "state_dir", "mlflow_uri")
def rollback(
    given: Given,
    name: Name = "unveil-de",
    as_json: o.AsJson = False,
) -> None:
    """Make the previous champion the champion again.

    Example:

        unveil rollback
    """

    from flows.models import promotion

    registry = o.existing_registry(given)
    with progress_bar():
        moved = promotion.rollback(registry, name)
    show(moved, as_json, f"{name} version {moved.champion} is the champion again.")


@takes_settings(Taken.RETRAIN)
def retrain(
    given: Given,
    config: o.Config = None,
    as_json: o.AsJson = False,
) -> None:
    """Fine-tune the champion on new scenes, and compare; the flow of the weekly deployment.

    Learns from the squares that are not held out; without new scenes nothing is trained. A training that was stopped is
    continued by the same command.

    Example:

        unveil retrain --config retrain.yaml --promotion automatic
    """
    from flows.models.retrain_settings import load_retrain_settings

    settings = load_retrain_settings(given, config)  # first: Prefect reads the login when it is imported
    from flows.models.evaluation_report import record_of
    from flows.retrain import as_markdown
    from flows.retrain import retrain as flow
    from flows.services.prefect_server import prefect_api

    with progress_bar(), prefect_api(settings.run_settings().state):
        summary = flow(cast(Any, settings.shareable))
    show(record_of(summary, summary.judged), as_json, as_markdown(summary))


def _print_models(rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Print the versions of a model, oldest first."""
    from flows.models.evaluation_report import summary

    columns = ("version", "aliases", "registered", "preset", "trained on", "gates", "promoted")
    found = [
        (
            Text(row["version"], "green" if "champion" in row["aliases"] else "white"),
            ", ".join(row["aliases"]),
            row["created"][:10],
            row["tags"].get("preset", ""),
            row["tags"].get("trained_on", "").partition(":")[0],
            summary(row["gates"]) if row["gates"] else "",
            row["tags"].get("unveil_promoted_why", ""),
        )
        for row in rows
    ]
    print_table(name, columns, found)


def _print_gates(row: Mapping[str, Any], name: str) -> None:
    """Print the gate table of a version."""
    from flows.models.evaluation_report import gate_rows

    if row["gates"] is None:
        output.print(
            f"{name} version {row['version']} has no evaluation; run `unveil promote --dry-run`.",
            markup=False,
        )
        return
    title = f"{name} version {row['version']} against version {row['gates']['champion']}"
    print_table(title, ("gate", "figure", "limits", ""), gate_rows(row["gates"]))
