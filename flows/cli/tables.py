"""Tables of catalog checks and of the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from flows.cli.console import STATE_STYLES, item_of, output, table_of_ids

if TYPE_CHECKING:
    from flows.backfill import BackfillSummary
    from flows.census import Census
    from flows.ledger.status import Status
    from flows.redrive import RedriveSummary
    from stac.catalog.check import CatalogReport


def print_report(report: CatalogReport) -> None:
    """Print what was looked at, and one row per problem."""
    if report.problems:
        places = [problem.place.removeprefix(report.catalog.rpartition("/")[0] + "/") for problem in report.problems]
        table = table_of_ids("where", places, "what", title="Problems", first="problem")
        for problem, place in zip(report.problems, places, strict=True):
            table.add_row(f"[red]{problem.code}[/]", escape(place), escape(problem.message))
        output.print(table)
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
    ids = [entry.target_id for entry in found.entries]
    table = table_of_ids("scene", ids, "tries", "updated", "item or error", title="Work ledger", first="state")
    for entry in found.entries:
        style = STATE_STYLES.get(entry.state, "white")
        until = (
            f"held until {entry.lease_until[:19]}{' (expired)' if entry.expired else ''}" if entry.lease_until else ""
        )
        last = item_of(_item_id(entry.item_href), entry.target_id) or entry.error or until
        values = (entry.target_id, str(entry.attempts), entry.updated[5:16].replace("T", " "), last)
        table.add_row(f"[{style}]{entry.state}[/]", *(escape(value) for value in values))
    output.print(table)
    if found.next:
        output.print(f"More: unveil status --after {found.next}", markup=False, soft_wrap=True)


def print_census(found: Census) -> None:
    """Print where every scene stands, and what it comes to."""
    ids = [row.scene_id for row in found.scenes]
    title = f"Census of {escape(found.collection)}"
    of_scenes = found.counted == "scenes"
    table = table_of_ids("scene" if of_scenes else "mosaic", ids, "tries", "item or reason", title=title, first="state")
    for row in found.scenes:
        style = _STANDING_STYLES[row.standing]
        table.add_row(
            f"[{style}]{row.standing}[/]",
            escape(row.scene_id),
            str(row.attempts),
            escape(row.reason or item_of(_item_id(row.item_href), row.scene_id)),
        )
    output.print(table)
    remedy = "run `unveil run` for what is missing, or `unveil redrive`" if of_scenes else "run it without --census"
    verdict = "complete" if found.complete else f"INCOMPLETE: {remedy}"
    output.print(f"{_counted(found.counts)}; {verdict}.", markup=False, soft_wrap=True)


def print_backfill(found: BackfillSummary) -> None:
    """Print one line per window."""
    table = Table("window", "published", "before", "failed", "invalid", "held", "seconds", "error", title="Backfill")
    for w in found.windows:
        numbers = (w.published, w.already_done, w.failed, w.invalid, w.running)
        table.add_row(w.interval, *(str(n) for n in numbers), f"{w.seconds:.1f}", escape(w.error))
    output.print(table)
    if found.left:
        output.print(f"{found.left} windows were not begun; the same command continues.", markup=False)


def print_redrive(found: RedriveSummary) -> None:
    """Print how the units that were tried again ended."""
    units = [unit for run in found.runs for unit in run.units]
    ids = [unit.target_id for unit in units]
    table = table_of_ids("scene", ids, "item or error", title="Tried again", first="state")
    for unit in units:
        style = STATE_STYLES.get(unit.state, "white")
        table.add_row(
            f"[{style}]{unit.state}[/]",
            escape(unit.target_id),
            escape(item_of(_item_id(unit.item_href), unit.target_id) or unit.error),
        )
    output.print(table)
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
