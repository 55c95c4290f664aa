"""The command that makes mosaics of a region and periods."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from flows.cli import options as o
from flows.cli.console import output, print_json, progress_bar
from flows.cli.runs import show_run
from flows.cli.setting_options import Given, Taken, takes_settings
from flows.cli.tables import print_census

if TYPE_CHECKING:
    from flows.settings import RunSettings
    from flows.settings.mosaic_options import MosaicOptions


@takes_settings(Taken.MOSAIC)
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
    from flows.errors import WorkFailed
    from flows.settings.loading import mosaic_options
    from flows.settings.mosaic_options import MosaicOptions

    options = mosaic_options({name: given.pop(name) for name in MosaicOptions.model_fields if name in given})
    settings = o.settings(config, **given)
    if census:
        _count(settings, options, as_json=as_json)
    failure = None
    with progress_bar():
        from flows.period_mosaic import run_mosaics

        try:
            summary = asdict(run_mosaics(settings, options))
        except WorkFailed as error:
            if error.summary is None:
                raise
            summary, failure = asdict(error.summary), error
    if not as_json:
        for place in summary["regions"]:
            output.print(f"Region: {place}", markup=False, soft_wrap=True)
        for sentence in summary["empty"]:
            output.print(f"No mosaic of {sentence}", markup=False, soft_wrap=True)
    show_run(summary, failure, str(settings.out), as_json=as_json)


def _count(settings: RunSettings, options: MosaicOptions, *, as_json: bool) -> NoReturn:
    """Show where every cell stands, and exit."""
    with progress_bar():
        from flows.census import mosaic_census

        found = mosaic_census(settings, options)
    if as_json:
        print_json(asdict(found))
    else:
        print_census(found)
    raise typer.Exit(0 if found.complete else 1)
