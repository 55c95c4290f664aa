"""Commands for many runs: backfill, redrive, census, status."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from flows.cli import options as o
from flows.cli.console import progress_bar, show
from flows.cli.setting_options import Given, Taken, takes_settings
from flows.cli.tables import print_backfill, print_census, print_redrive, print_status
from flows.errors import EXIT_FAILED, EXIT_INVALID


@takes_settings()
def backfill(
    given: Given,
    interval: Annotated[str, typer.Option("--datetime", help="The whole interval: 2019-01-01/2023-12-31.")],
    config: o.Config = None,
    days: Annotated[int, typer.Option("--window-days", min=1, help="Length of a window, days.")] = 30,
    as_json: o.AsJson = False,
) -> None:
    """Run a long interval window by window; the same command continues after a stop.

    A window that fails does not stop the others. Exit status 1 when something is left to do.

    Example:

        unveil backfill --source https://earth-search.aws.element84.com/v1 --collection sentinel-2-l2a
            --bbox 15.9,45.7,16.1,45.9 --datetime 2019-01-01/2023-12-31 --window-days 30 --out zagreb
    """
    settings = o.settings(config, **given, datetime=interval)
    with progress_bar():
        from flows.backfill import run_backfill

        summary = run_backfill(settings, days)
    show(asdict(summary) | {"ok": summary.ok}, as_json, lambda: print_backfill(summary))
    _exit(summary.ok)


@takes_settings(Taken.LOCAL)
def redrive(
    given: Given,
    config: o.Config = None,
    include_invalid: Annotated[
        bool, typer.Option("--include-invalid", help="Units whose input was found unusable, too.")
    ] = False,
    max_attempts: Annotated[int, typer.Option("--max-attempts", min=1, help="Skip units with this many attempts.")] = 5,
    as_json: o.AsJson = False,
) -> None:
    """Try FAILED, ABORTED and abandoned units again, with the settings and the model they were planned with.

    Exit status 1 when one of them is still not published, 2 when what is not cannot be used and none failed.

    Example:

        unveil redrive --out zagreb --max-attempts 3
    """
    settings = o.settings(config, **given)
    with progress_bar():
        from flows.redrive import redrive_units as run

        summary = run(settings, max_attempts, include_invalid)
    show(asdict(summary) | {"ok": summary.ok}, as_json, lambda: print_redrive(summary))
    _exit(summary.ok, EXIT_INVALID if summary.unusable else EXIT_FAILED)


@takes_settings()
def census(
    given: Given,
    config: o.Config = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check all published files against their checksums.")
    ] = False,
    as_json: o.AsJson = False,
) -> None:
    """Compare the scenes a search finds with the published items: nothing may be missing unseen.

    Every scene of the interval is published, outdated, running, missing, failed, invalid, broken, or left out for its
    cloud cover. Items that the search could not use
    are invalid. Exit status 1 when one is missing, failed, broken or, unless `allow_invalid` is set, invalid.

    Example:

        unveil census --config zagreb.yaml --datetime 2023-08-01/2023-08-31 --verify --json
    """
    settings = o.settings(config, **given)
    with progress_bar():
        from flows.census import take_census as count

        found = count(settings, verify=verify)
    show(found, as_json, lambda: print_census(found))
    _exit(found.complete)


@takes_settings("out", "state_dir", "ledger_url")
def status(
    given: Given,
    config: o.Config = None,
    state: Annotated[str | None, typer.Option("--state", help="Only units in this state, e.g. FAILED.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Lines of a page.")] = 50,
    after: Annotated[str, typer.Option("--after", help="Continue where a page ended; it says how.")] = "",
    as_json: o.AsJson = False,
) -> None:
    """Show the work ledger: counts per state, and units with attempts, leases and last error, latest first.

    Example:

        unveil status --out zagreb --state FAILED --limit 20
    """
    settings = o.settings(config, **given)
    from flows.ledger.schema import State
    from flows.ledger.store import status as look

    wanted = None if state is None else o.choice(State, state.upper(), "--state")
    found = look(settings, state=wanted, limit=limit, after=after)
    if not any(found.counts.values()):
        from flows.processing.publishing import require_catalog

        require_catalog(settings)
    show(found, as_json, lambda: print_status(found))


def _exit(ok: bool, otherwise: int = EXIT_FAILED) -> None:
    if not ok:
        raise typer.Exit(otherwise)
