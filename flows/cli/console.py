"""What a person sees in the terminal: progress on stderr, tables, one sentence for an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from flows.progress import Event, listening
from stac.io.secrets import redact

#: Everything for people goes to stderr while a command prints JSON.
errors = Console(stderr=True, highlight=False)
output = Console(highlight=False)

STATE_STYLES = {
    "SUCCEEDED": "green", "FAILED": "red", "INVALID": "yellow", "ABORTED": "yellow", "RUNNING": "cyan",
    "CLAIMED": "cyan",
}  # fmt: skip


def print_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    """Print one JSON document on stdout and nothing else."""
    sys.stdout.write(json.dumps(document, indent=2, default=str, allow_nan=False) + "\n")
    sys.stdout.flush()


@contextmanager
def progress_bar() -> Iterator[Callable[[Event], None]]:
    """Show what is going on, on stderr, while the context is open; yields the listener for other sources."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        line = bar.add_task("starting", total=None)

        def show(event: Event) -> None:
            bar.update(line, description=event.text, completed=event.done, total=event.total or None)

        with listening(show):
            yield show


def print_plan(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print work units: new, done, or invalid with the reason."""
    table = Table("state", "target", "cloud %", "donors", "megapixels", "product or reason", title="Work units")
    styles = {"new": "cyan", "done": "green", "invalid": "yellow", "left out": "white"}
    for row in rows:
        values = (
            row["target_id"],
            row["cloud_cover"],
            row["donors"],
            row["megapixels"],
            row["item_id"] or row["reason"],
        )
        table.add_row(f"[{styles[row['state']]}]{row['state']}[/]", *(escape(str(v)) for v in values))
    output.print(table)


def print_summary(summary: Mapping[str, Any], out: str) -> None:
    """Print what a run made and where to look."""
    table = Table("target", "state", "cloudy km²", "other dates km²", "gaps km²", "seconds", title="Scenes")
    for unit in summary["units"]:
        style = STATE_STYLES.get(unit["state"], "white")
        f = unit["figures"]
        numbers = [f"{f[k]:.1f}" for k in ("cloudy_km2", "other_dates_km2", "model_km2", "seconds")] if f else [""] * 4
        # What waits for review succeeded, but is not good yet.
        state = "[yellow]needs review[/]" if unit.get("note") else f"[{style}]{unit['state']}[/]"
        table.add_row(escape(unit["target_id"]), state, *numbers)
    if summary["units"]:
        output.print(table)
    for unit in summary["units"]:
        if unit["error"] or unit.get("note"):
            output.print(f"[yellow]{escape(unit['target_id'])}[/]: {escape(unit['error'] or unit['note'])}")
    for reason in summary["remade"]:
        output.print(f"Made again, as it was broken: {escape(reason)}", soft_wrap=True)
    if summary["left_out"]:
        output.print(_left_out(summary["left_out"]))
    output.print(_totals(summary, out))


def _left_out(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("scene", "cause", "reason", title="Left out")
    for row in rows:
        table.add_row(*(escape(str(row[name])) for name in ("target_id", "cause", "reason")))
    return table


def _totals(summary: Mapping[str, Any], out: str) -> Table:
    figures = [unit["figures"] for unit in summary["units"] if unit["figures"]]
    total = {k: sum(f[k] for f in figures) for k in ("cloudy_km2", "other_dates_km2", "model_km2")} if figures else {}
    made = [unit for unit in summary["units"] if unit["item_href"]]
    review = [unit for unit in made if unit.get("note")]
    table = Table(show_header=False, title="Summary")
    table.add_row("scenes searched", str(summary["scenes"]))
    table.add_row("mosaics published", f"{len(made) - len(review)} new, {len(summary['already_done'])} already there")
    if review:
        table.add_row("waiting for review", f"{len(review)} in collection unveil-review")
    if total:
        table.add_row("cloudy area", f"{total['cloudy_km2']:.0f} km²")
        table.add_row("  observed on other dates", f"{total['other_dates_km2']:.0f} km²")
        table.add_row("  seen on no date, estimated", f"{total['model_km2']:.1f} km²")
    table.add_row("model", escape(f"{summary['model']['name']} version {summary['model']['version']}"))
    table.add_row("time", f"{summary['seconds']:.1f} s")
    table.add_row("catalog", escape(str(summary["catalog"])))
    for unit in made[:4]:
        table.add_row("before and after", escape(str(unit["item_href"]).rsplit("/", 1)[0] + "/quicklook.png"))
    if not out.startswith("s3://"):
        table.add_row("look at it", escape(f"unveil serve --out {out}"))
    return table


def print_models(rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Print the versions of a model, oldest first."""
    from flows.models.gates import summary

    table = Table("version", "aliases", "registered", "preset", "trained on", "gates", "promoted", title=escape(name))
    for row in rows:
        tags = row["tags"]
        style = "green" if "champion" in row["aliases"] else "white"
        values = (
            ", ".join(row["aliases"]),
            row["created"][:16],
            tags.get("preset", ""),
            tags.get("trained_on", ""),
            summary(row["gates"]) if row["gates"] else "",
            tags.get("unveil_promoted_why", ""),
        )
        table.add_row(f"[{style}]{escape(row['version'])}[/]", *(escape(value) for value in values))
    output.print(table)


def print_gates(row: Mapping[str, Any], name: str) -> None:
    """Print the gate table of a version."""
    from flows.models.gates import gate_rows

    if row["gates"] is None:
        output.print(f"{name} version {row['version']} was never on trial; see `unveil promote`.", markup=False)
        return
    title = f"{name} version {row['version']} against version {row['gates']['champion']}"
    table = Table("gate", "figure", "limits", "", title=escape(title))
    for values in gate_rows(row["gates"]):
        table.add_row(*(escape(value) for value in values))
    output.print(table)


def print_checks(checks: Sequence[Mapping[str, Any]]) -> None:
    """Print what `unveil doctor` found."""
    styles = {"OK": "green", "WARN": "yellow", "FAIL": "red"}
    table = Table("", "check", "found", "what to do")
    for check in checks:
        status = str(check["status"]).upper()
        values = (str(check[name]) for name in ("name", "detail", "remedy"))
        table.add_row(f"[{styles.get(status, 'white')}]{status}[/]", *(escape(value) for value in values))
    output.print(table)


def print_error(message: str, *, as_json: bool, kind: str) -> None:
    """Tell what went wrong in one sentence on stderr, and as JSON on stdout where that was asked for."""
    message = redact(message)
    if as_json:
        print_json({"error": {"kind": kind, "message": message}})
    errors.print(f"unveil: {message}", markup=False, soft_wrap=True)
