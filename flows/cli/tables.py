"""Tables of plans and runs, of catalog checks, and of the ledger."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.cli.console import item_of, output, print_table, styled

if TYPE_CHECKING:
    from flows.backfill import BackfillSummary
    from flows.census import Census
    from flows.ledger.store import Status
    from flows.redrive import RedriveSummary
    from stac.catalog.check import CatalogReport


STATE_STYLES = {
    "SUCCEEDED": "green", "FAILED": "red", "INVALID": "yellow", "ABORTED": "yellow", "RUNNING": "cyan",
    "CLAIMED": "cyan",
}  # fmt: skip
#: Areas from which on whole square kilometres are exact enough.
_WHOLE_KM2 = 10
#: Pictures that the summary of a run names.
_PICTURES = 8
_STANDING_STYLES = {
    "published": "green", "review": "yellow", "outdated": "cyan",
    "running": "cyan", "missing": "red", "failed": "red", "broken": "red",
    "invalid": "yellow", "left out": "white",
}  # fmt: skip


def print_plan(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print work units: new, done, or failed or invalid with the reason; then the scenes that are left out."""
    styles = {"new": "cyan", "done": "green", "failed": "red", "invalid": "yellow"}
    units = [
        (
            styled(row["state"], styles),
            row["target_id"],
            row["cloud_cover"],
            row["sources"],
            row["megapixels"],
            item_of(str(row["item_id"]), str(row["target_id"])) or row["reason"],
        )
        for row in rows
        if row["state"] != "left out"
    ]
    print_table("Plan", ("state", "scene", "cloud %", "dates", "Mpx", "item or reason"), units, ids=1)
    left_out = [(row["target_id"], row["reason"]) for row in rows if row["state"] == "left out"]
    if left_out:
        print_table("Left out", ("scene", "reason"), left_out, ids=0)


def print_summary(summary: Mapping[str, Any], out: str) -> None:
    """Print what a run made, what failed, where to look, and what to do next."""
    units, rows = summary["units"], []
    for unit in units:
        f = unit["figures"]
        numbers = [_area(f[k]) for k in ("cloudy_km2", "other_dates_km2", "model_km2")] if f else [""] * 3
        # What waits for review succeeded, but is not good yet.
        state = Text("needs review", "yellow") if _waits(unit) else styled(unit["state"], STATE_STYLES)
        rows.append((unit["target_id"], state, *numbers, f"{f['seconds']:.1f}" if f else ""))
    if units:
        what = "cell" if "regions" in summary else "scene"
        columns = (what, "state", "cloudy", "other dates", "gaps", "s")
        print_table(f"{what.capitalize()}s (areas in km²)", columns, rows, ids=0)
    for unit in units:
        if unit["error"] or unit.get("note"):
            output.print(f"[yellow]{escape(unit['target_id'])}[/]: {escape(unit['error'] or unit['note'])}")
    for reason in summary["remade"]:
        output.print(f"Made again, as it was broken: {escape(reason)}", soft_wrap=True)
    if summary["left_out"]:
        left_out = [(row["target_id"], row["cause"], row["reason"]) for row in summary["left_out"]]
        print_table("Left out", ("scene", "cause", "reason"), left_out, ids=0)
    output.print(_totals(summary))
    for line in _next_steps(summary, out):
        output.print(line, markup=False, soft_wrap=True)


def _waits(unit: Mapping[str, Any]) -> bool:
    """Return whether the product of a unit lies in the collection for review."""
    from stac.catalog.product_collections import ProductCollection

    return f"/{ProductCollection.REVIEW}/" in unit["item_href"]


def _area(km2: float) -> str:
    """Return an area with two significant digits, or in whole square kilometres."""
    return f"{km2:.0f}" if km2 >= _WHOLE_KM2 else f"{km2:.2g}"


def _totals(summary: Mapping[str, Any]) -> Table:
    figures = [unit["figures"] for unit in summary["units"] if unit["figures"]]
    total = {k: sum(f[k] for f in figures) for k in ("cloudy_km2", "other_dates_km2", "model_km2")} if figures else {}
    made = [unit for unit in summary["units"] if unit["item_href"]]
    review = [unit for unit in made if _waits(unit)]
    table = Table(show_header=False, title="Summary")
    table.add_row("scenes searched", str(summary["scenes"]))
    table.add_row("mosaics published", f"{len(made) - len(review)} new, {len(summary['already_done'])} already there")
    failed = [unit for unit in summary["units"] if not unit["item_href"]]
    if failed:
        table.add_row("[red]not published[/]", f"[red]{len(failed)} of {len(summary['units'])} scenes[/]")
    if waiting := len(review) + len(summary["in_review"]):
        table.add_row("waiting for review", f"{waiting} in collection unveil-review")
    if total:
        table.add_row("cloudy area", f"{_area(total['cloudy_km2'])} km²")
        table.add_row("  observed on other dates", f"{_area(total['other_dates_km2'])} km²")
        table.add_row("  seen on no date, estimated", f"{_area(total['model_km2'])} km²")
    table.add_row("model", escape(f"{summary['model']['name']} version {summary['model']['version']}"))
    table.add_row("time", f"{summary['seconds']:.1f} s")
    return table


def _next_steps(summary: Mapping[str, Any], out: str) -> Iterator[str]:
    """Yield where to look and what to do next; paths and commands are whole lines, so that they can be copied."""
    yield f"Catalog: {summary['catalog']}"
    made = [str(unit["item_href"]) for unit in summary["units"] if unit["item_href"]]
    if made:
        yield "Before and after:"
        yield from (f"  {href.rsplit('/', 1)[0]}/quicklook.png" for href in made[:_PICTURES])
        if len(made) > _PICTURES:
            yield f"  and {len(made) - _PICTURES} more"
    steps = [*_steps_of(summary, made, shlex.quote(out))]
    if steps:
        yield "Next:"
        yield from steps


def _steps_of(summary: Mapping[str, Any], made: Sequence[str], where: str) -> Iterator[str]:
    states = {unit["state"] for unit in summary["units"]}
    # The ledger has plans of scenes: none of cells of mosaics, and it does not know what could not be planned.
    known = {unit["state"] for unit in summary["units"] if unit["work_id"]}
    redriven = set() if "periods" in summary else known
    unplanned = states if "periods" in summary else {u["state"] for u in summary["units"] if not u["work_id"]}
    if known & {"FAILED", "ABORTED"}:
        yield f"  unveil status --out {where} --state FAILED   # why scenes failed"
    if redriven & {"FAILED", "ABORTED"}:
        yield f"  unveil redrive --out {where}   # try them again"
    if "INVALID" in redriven:
        yield f"  unveil redrive --out {where} --include-invalid   # once their source or a setting has changed"
    if "RUNNING" in states:
        yield "  the same command   # when the other run has ended"
    if unplanned - {"SUCCEEDED", "RUNNING"}:
        yield "  the same command   # tries the rest again, once their source or a setting has changed"
    if not (made or summary["already_done"] or summary["in_review"]):
        return
    if where.startswith("s3://"):
        yield f"  unveil catalog check --out {where}   # is everything in order"
    else:
        yield f"  unveil serve --out {where}   # look at it in STAC Browser"


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
    if found.complete and found.outdated:
        verdict = "nothing is missing, and the next run makes what is outdated again"
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
