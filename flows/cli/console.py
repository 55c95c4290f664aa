"""What a person sees in the terminal: progress on stderr, tables, one sentence for an error."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from flows.progress import Event, listening
from stac.io.secrets import redact

#: Everything for people goes to stderr while a command prints JSON.
errors = Console(stderr=True, highlight=False)
output = Console(highlight=False)

STATE_STYLES = {
    "SUCCEEDED": "green", "FAILED": "red", "INVALID": "yellow", "ABORTED": "yellow", "RUNNING": "cyan",
    "CLAIMED": "cyan",
}  # fmt: skip


def print_json(document: Any) -> None:
    """Print one JSON document on stdout and nothing else."""
    sys.stdout.write(json.dumps(document, indent=2, default=_plain, allow_nan=False) + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def show(result: Any, as_json: bool, people: str | Callable[[], None]) -> None:
    """Print the result of a command.

    Args:
        result: as JSON values and dataclasses; printed as one JSON document on stdout and nothing else.
        as_json: `--json` was given.
        people: a sentence for people, or what prints the result for them.
    """
    if as_json:
        print_json(result)
    elif isinstance(people, str):
        output.print(people, markup=False)
    else:
        people()


@contextmanager
def progress_bar() -> Iterator[None]:
    """Show what is going on, on stderr, while the context is open."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        line = bar.add_task("starting", total=None)

        def show(event: Event) -> None:
            bar.update(line, description=event.text, completed=event.done, total=event.total or None)

        with listening(show):
            yield


#: Ids up to this length stand in one line where there is room; longer ones are folded. Nothing is cut.
_ID_WIDTH, _LEAST_ID_WIDTH = 40, 20
#: Words of other columns up to this length are not folded for the sake of ids: SUCCEEDED, unveil-f2f6196d.
_WORD_WIDTH = 15
#: Columns from which on rows have room for whole item ids.
_WIDE = 120
#: Areas from which on whole square kilometres are exact enough.
_WHOLE_KM2 = 10
#: Pictures that the summary of a run names.
_PICTURES = 8


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, ids: int | None = None
) -> None:
    """Print a table whose values wrap; nothing is cut, however narrow the terminal. Without rows nothing is printed.

    Args:
        title: above the table; none when empty.
        columns: headers.
        rows: a value for each column, `styled` or as it is.
        ids: number of a column of ids, which stand in one line where they can.
    """
    table, every = Table(title=escape(title) or None), list(rows)
    if not every:
        return
    columns_of = [[header, *(str(row[number]) for row in every)] for number, header in enumerate(columns)]
    words = [max(len(word) for cell in cells for word in ["", *cell.split()]) for cells in columns_of]
    kept = [min(word, _WORD_WIDTH) for word in words]
    # A border and two blanks around every column.
    room = output.width - 3 * len(columns) - 1
    if ids is not None:
        longest = min(words[ids], _ID_WIDTH)
        kept[ids] = max(len(columns[ids]), min(longest, max(room - sum(kept) + kept[ids], _LEAST_ID_WIDTH)))
    for number, cells in enumerate(columns_of):
        one_word = words[number] <= _WORD_WIDTH and not any(" " in cell for cell in cells)
        table.add_column(
            columns[number],
            overflow="fold",
            width=kept[number] if number == ids else None,
            no_wrap=one_word and number != ids and sum(kept) <= room,
        )
    for row in every:
        table.add_row(*(value if isinstance(value, Text) else escape(str(value)) for value in row))
    output.print(table)


def styled(value: object, styles: Mapping[str, str]) -> Text:
    """Return a value in its colour."""
    return Text(str(value), styles.get(str(value), "white"))


def item_of(item_id: str, scene: str) -> str:
    """Return an item's id for a row that names its scene: in a narrow terminal without the scene's id before it."""
    return item_id if output.width >= _WIDE else item_id.removeprefix(f"{scene}-")


def print_plan(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print work units: new, done, or invalid with the reason; then the scenes that are left out."""
    styles = {"new": "cyan", "done": "green", "invalid": "yellow"}
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
        state = Text("needs review", "yellow") if unit.get("note") else styled(unit["state"], STATE_STYLES)
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


def _area(km2: float) -> str:
    """Return an area with two significant digits, or in whole square kilometres."""
    return f"{km2:.0f}" if km2 >= _WHOLE_KM2 else f"{km2:.2g}"


def _totals(summary: Mapping[str, Any]) -> Table:
    figures = [unit["figures"] for unit in summary["units"] if unit["figures"]]
    total = {k: sum(f[k] for f in figures) for k in ("cloudy_km2", "other_dates_km2", "model_km2")} if figures else {}
    made = [unit for unit in summary["units"] if unit["item_href"]]
    review = [unit for unit in made if unit.get("note")]
    table = Table(show_header=False, title="Summary")
    table.add_row("scenes searched", str(summary["scenes"]))
    table.add_row("mosaics published", f"{len(made) - len(review)} new, {len(summary['already_done'])} already there")
    failed = [unit for unit in summary["units"] if not unit["item_href"]]
    if failed:
        table.add_row("[red]not published[/]", f"[red]{len(failed)} of {len(summary['units'])} scenes[/]")
    if review:
        table.add_row("waiting for review", f"{len(review)} in collection unveil-review")
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
    if states & {"FAILED", "ABORTED"}:
        yield f"  unveil status --out {where} --state FAILED   # why scenes failed"
        yield f"  unveil redrive --out {where}   # try them again"
    if "INVALID" in states:
        yield f"  unveil redrive --out {where} --include-invalid   # once their source or a setting has changed"
    if not made and not summary["already_done"]:
        return
    if where.startswith("s3://"):
        yield f"  unveil catalog check --out {where}   # is everything in order"
    else:
        yield f"  unveil serve --out {where}   # look at it in STAC Browser"


def print_models(rows: Sequence[Mapping[str, Any]], name: str) -> None:
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


def print_gates(row: Mapping[str, Any], name: str) -> None:
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


def print_checks(checks: Sequence[Mapping[str, Any]]) -> None:
    """Print what `unveil doctor` found."""
    styles = {"OK": "green", "WARN": "yellow", "FAIL": "red"}
    rows = [(styled(c["status"], styles), c["name"], c["detail"], c["remedy"]) for c in checks]
    print_table("", ("", "check", "found", "what to do"), rows)


def print_error(message: str, *, as_json: bool, kind: str) -> None:
    """Print an error as one sentence on stderr, with `as_json` also as a document on stdout."""
    message = redact(message)
    if as_json:
        print_json({"error": {"kind": kind, "message": message}})
    errors.print(f"unveil: {message}", markup=False, soft_wrap=True)
