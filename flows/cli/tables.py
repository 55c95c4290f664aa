"""Tables of catalog checks and of the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.text import Text

from flows.cli.console import STATE_STYLES, item_of, output, print_table, styled

if TYPE_CHECKING:
    from flows.backfill import BackfillSummary
    from flows.census import Census
    from flows.ledger.opening import Status
    from flows.redrive import RedriveSummary
    from stac.catalog.check import CatalogReport


def print_report(report: CatalogReport) -> None:
    """Print what was looked at, and one row per problem."""
    if report.problems:
        root = report.catalog.rpartition("/")[0] + "/"
        rows = [(Text(each.code, "red"), each.place.removeprefix(root), each.message) for each in report.problems]
        print_table("Problems", ("problem", "where", "what"), rows, ids=1)
    counts = report.counts
    output.print(
        f"{counts.collections} collections, {counts.items} items, {counts.assets} assets ({counts.cogs} COGs), "
        f"{counts.bytes / 1e6:.1f} MB."
    )
    found = len(report.problems)
    output.print(f"{report.catalog}: {found or 'no'} problem{'' if found == 1 else 's'}.", markup=False)


_STANDING_STYLES = {
    "published": "green", "review": "yellow", "outdated": "cyan",
    "running": "cyan", "missing": "red", "failed": "red", "broken": "red",
    "invalid": "yellow", "left out": "white",
}  # fmt: skip


def print_status(found: Status) -> None:
    """Print counts and a page of the ledger, latest first."""
    output.print(f"Ledger {found.ledger}: {_counted(found.counts)}", markup=False, soft_wrap=True)
    if found.expired:
        output.print(f"{found.expired} held units are free again: their runs stand still.", markup=False)
    rows = []
    for entry in found.entries:
        when, lease_end = (moment[5:19].replace("T", " ") for moment in (entry.updated, entry.lease_until))
        until = f"held until {lease_end}{' (expired)' if entry.expired else ''}" if lease_end else ""
        last = item_of(_item_id(entry.item_href), entry.target_id) or entry.error or until
        rows.append((styled(entry.state, STATE_STYLES), entry.target_id, entry.attempts, when[:-3], last))
    print_table("Work ledger", ("state", "scene", "tries", "updated", "item or error"), rows, ids=1)
    if found.next:
        output.print(f"More: unveil status --after {found.next}", markup=False, soft_wrap=True)


def print_census(found: Census) -> None:
    """Print where every scene stands, and what it comes to."""
    rows = [
        (
            styled(row.standing, _STANDING_STYLES),
            row.scene_id,
            row.attempts,
            row.reason or item_of(_item_id(row.item_href), row.scene_id),
        )
        for row in found.scenes
    ]
    of_scenes = found.counted == "scenes"
    columns = ("state", "scene" if of_scenes else "mosaic", "tries", "item or reason")
    print_table(f"Census of {found.collection}", columns, rows, ids=1)
    remedy = "run `unveil run` for what is missing, or `unveil redrive`" if of_scenes else "run it without --census"
    verdict = "complete" if found.complete else f"INCOMPLETE: {remedy}"
    output.print(f"{_counted(found.counts)}; {verdict}.", markup=False, soft_wrap=True)


def print_backfill(found: BackfillSummary) -> None:
    """Print one line per window."""
    columns = ("window", "published", "before", "failed", "invalid", "held", "seconds", "error")
    rows = [
        (w.interval, w.published, w.already_done, w.failed, w.invalid, w.running, f"{w.seconds:.1f}", w.error)
        for w in found.windows
    ]
    print_table("Backfill", columns, rows)
    if found.left:
        output.print(f"{found.left} windows were not begun; the same command continues.", markup=False)


def print_redrive(found: RedriveSummary) -> None:
    """Print how the units that were tried again ended."""
    rows = [
        (
            styled(unit.state, STATE_STYLES),
            unit.target_id,
            item_of(_item_id(unit.item_href), unit.target_id) or unit.error,
        )
        for run in found.runs
        for unit in run.units
    ]
    if rows:
        print_table("Tried again", ("state", "scene", "item or error"), rows, ids=1)
    else:
        output.print("No unit was tried again.")
    for error in found.errors:
        output.print(error, markup=False, soft_wrap=True)
    if found.exhausted:
        output.print(f"Tried as often as allowed: {', '.join(found.exhausted)}", markup=False, soft_wrap=True)
    if found.without_plan:
        names = ", ".join(found.without_plan)
        output.print(f"Of mosaics, which `unveil mosaic` continues: {names}", markup=False, soft_wrap=True)


def _item_id(href: str) -> str:
    """Return the id in an item's address; the file is called like the item."""
    return href.rsplit("/", 1)[-1].removesuffix(".json")


def _counted(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "empty"
