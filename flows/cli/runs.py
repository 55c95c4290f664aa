"""Commands that restore scenes: demo, run, plan, mosaic."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from flows.cli import options as o
from flows.cli.console import output, print_error, print_json, progress_bar, show
from flows.cli.setting_options import Given, Taken, part_of, takes_settings
from flows.cli.tables import print_census, print_plan, print_summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.errors import WorkFailed
    from flows.planning.plan_file import FrozenPlan
    from flows.running.summary import RunSummary
    from flows.settings import RunSettings
    from flows.settings.mosaic_options import MosaicOptions


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of the catalog that is written.")] = Path("unveil-out"),
    as_json: o.AsJson = False,
) -> None:
    """Restore the shipped sample: ten real Sentinel-2 scenes, no network needed.

    Restores the cloudy dates of the sample, publishes the mosaics to a static catalog, and says where to look. A second
    run finds its work done.
    """

    _run(o.settings(source="sample", out=out), as_json)


@takes_settings()
def run(
    given: Given,
    config: o.Config = None,
    plan_file: Annotated[
        Path | None, typer.Option("--plan", help="Execute a frozen plan (`unveil plan --freeze`), and nothing else.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop after the plan, like `unveil plan`.")] = False,
    as_json: o.AsJson = False,
) -> None:
    """Find cloudy scenes, restore them, and publish cloud-free mosaics.

    Example:

        unveil run --source https://earth-search.aws.element84.com/v1 --collection sentinel-2-l2a
            --bbox 15.9,45.7,16.1,45.9 --datetime 2023-08-01/2023-08-31 --max-cloud 60 --out zagreb

        unveil run --config zagreb.yaml --runner dask --workers 4
    """

    settings = o.settings(config, **given)
    frozen = None
    if plan_file is not None:
        frozen, settings = _of_plan(plan_file, settings, given, dry_run)
    if dry_run:
        _plan(settings, as_json)
    else:
        _run(settings, as_json, frozen)


@takes_settings()
def plan(
    given: Given,
    config: o.Config = None,
    freeze: Annotated[
        Path | None, typer.Option("--freeze", help="Write the plan to a file for `unveil run --plan`.")
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """Show what `unveil run` would do: every scene new, done, or failed or invalid with the reason. Restores nothing.

    A frozen plan names units, settings and model version, under a checksum; a run executes exactly these.

    Example:

        unveil plan --config zagreb.yaml --freeze august.json

        unveil run --plan august.json --out zagreb
    """

    _plan(o.settings(config, **given), as_json, freeze)


@takes_settings(Taken.MOSAIC, Taken.RUN)
def mosaic(
    given: Given,
    config: o.Config = None,
    census: Annotated[
        bool, typer.Option("--census", help="Make nothing; say where every cell stands, exit 1 if one is missing.")
    ] = False,
    as_json: o.AsJson = False,
) -> None:
    """Make one cloud-free image of a region for every period: month, season, year or any dates.

    All cells share one radiometry. `count` says how many clear looks a pixel had; what no date saw is restored and
    marked. The same command again makes only what late scenes have changed.

    Example:

        unveil mosaic --source earth-search --collection sentinel-2-l2a --bbox 15.9,45.7,16.1,45.9
            --datetime 2023-05-01/2023-09-30 --period month --grid fixed --out zagreb

        unveil mosaic --config zagreb.yaml --region zagreb.geojson --period 2023-JJA --method geomedian
    """
    from flows.settings.mosaic_options import MosaicOptions

    options = part_of(given, MosaicOptions)
    settings = o.settings(config, **given)
    if census:
        _count(settings, options, as_json=as_json)
    with progress_bar():
        from flows.period_mosaic import run_mosaics

        summary, failure = _ended(lambda: run_mosaics(settings, options))
    if not as_json:
        for place in summary["regions"]:
            output.print(f"Region: {place}", markup=False, soft_wrap=True)
        for sentence in summary["empty"]:
            output.print(f"No mosaic of {sentence}", markup=False, soft_wrap=True)
    show_run(summary, failure, str(settings.out), as_json=as_json)


def _of_plan(
    plan_file: Path, settings: RunSettings, given: dict[str, Any], dry_run: bool
) -> tuple[FrozenPlan, RunSettings]:
    """Return a frozen plan and its settings, at the places that were named for this run."""
    from flows.errors import InvalidSettings
    from flows.planning.plan_file import read_plan, settings_of
    from flows.settings.fields import Mark
    from flows.settings.run_settings import marked

    other = sorted(set(given) - marked(Mark.LOCAL))
    if other or dry_run:
        name = "dry-run" if dry_run else other[0].replace("_", "-")
        raise InvalidSettings(
            f"--{name} cannot change a frozen plan; give --plan with options of places, services and execution only."
        )
    frozen = read_plan(plan_file)
    return frozen, settings_of(frozen, settings)


def _run(settings: RunSettings, as_json: bool, frozen: FrozenPlan | None = None) -> None:
    with progress_bar():
        from flows.mosaic import run_clear_scenes

        summary, failure = _ended(lambda: run_clear_scenes(settings, frozen))
    show_run(summary, failure, str(settings.out), as_json=as_json)


def _ended(run: Callable[[], RunSummary]) -> tuple[dict[str, Any], WorkFailed | None]:
    """Return how a run ended, and what of it failed."""
    from flows.errors import WorkFailed

    try:
        return asdict(run()), None
    except WorkFailed as error:
        if error.summary is None:
            raise
        return asdict(error.summary), error


def show_run(summary: dict[str, Any], failure: WorkFailed | None, out: str, *, as_json: bool) -> None:
    """Print what a run made, and what of it failed.

    Raises:
        Exit: with the status of the failure.
    """
    if not as_json:
        print_summary(summary, out)
    elif failure is None:
        print_json(summary)
    else:
        print_json(summary | {"error": {"kind": type(failure).__name__, "message": str(failure)}})
    if failure is not None:
        from flows.errors import exit_status

        print_error(str(failure), as_json=False, kind="")
        raise typer.Exit(exit_status(failure))


def _plan(settings: RunSettings, as_json: bool, freeze_to: Path | None = None) -> None:
    with progress_bar():
        from flows.running.preparation import plan_rows

        rows = plan_rows(settings, freeze_to)
    show(rows, as_json, lambda: print_plan(rows))


def _count(settings: RunSettings, options: MosaicOptions, *, as_json: bool) -> NoReturn:
    """Show where every cell stands, and exit."""
    with progress_bar():
        from flows.census import take_census

        found = take_census(settings, options)
    show(found, as_json, lambda: print_census(found))
    raise typer.Exit(0 if found.complete else 1)
