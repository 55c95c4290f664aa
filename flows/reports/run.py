"""The report of a run: Markdown, and the rows of table artifacts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flows.drift.compare import Verdict
from flows.planning.candidates import Cause

#: Of a table artifact.
_ROWS = 1000


def run_markdown(summary: Mapping[str, Any]) -> str:
    """Return the report of a run as markdown."""
    title = f"# clear-scenes {summary['run_id']}"
    origin = (
        f"Source `{summary['source']}`, collection `{summary['collection']}`, {summary['datetime']}; "
        f"model {summary['model']['name']} version {summary['model']['version']}."
    )
    head = "| target | state | cloudy km² | from other dates km² | in gaps km² | seconds | note |"
    table = "\n".join([head, "|---|---|---|---|---|---|---|", *(_row(unit) for unit in summary["units"])])
    remade = "".join(f"\n- Made again: {reason}" for reason in summary["remade"])
    passed = Counter(str(each["cause"]) for each in summary["left_out"])
    left_out = ", ".join(f"{number} for {cause}" for cause, number in passed.items())
    notes = f"{remade}\n\nLeft out: {left_out or 'nothing'}.\n"
    return f"{title}\n\n{origin}\n\n{table}\n{notes}{drift_markdown(summary.get('drift'))}"


def _row(unit: Mapping[str, Any]) -> str:
    f = unit["figures"] or {}
    numbers = [f"{f[name]:.1f}" if f else "" for name in ("cloudy_km2", "other_dates_km2", "model_km2", "seconds")]
    # A pipe or a line break in a message would end the cell.
    note = _note(unit).replace("|", "/").replace("\n", " ")
    return f"| {unit['target_id']} | {unit['state']} | {' | '.join(numbers)} | {note} |"


def unit_table(units: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the Prefect table artifact."""
    return [
        {
            "target": u["target_id"],
            "state": u["state"],
            "item": u["item_href"],
            "error": _note(u),
        }
        | {name: round(value, 3) for name, value in (u["figures"] or {}).items()}
        for u in units
    ]


def left_out_table(left_out: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the table artifact of scenes that no unit was made for; unusable items come first."""
    rows = sorted(left_out, key=lambda row: (row["cause"] != Cause.UNUSABLE, row["cause"], row["target_id"]))
    return [{"scene": row["target_id"], "cause": str(row["cause"]), "reason": row["reason"]} for row in rows[:_ROWS]]


def _note(unit: Mapping[str, Any]) -> str:
    """Return why a unit failed, or what to know about its product."""
    return str(unit["error"] or unit.get("note", ""))


def drift_markdown(comparison: Mapping[str, Any] | None) -> str:
    """Return the section of a run's report; empty where nothing was compared."""
    if comparison is None:
        return ""
    moved = [f for f in comparison["features"] if f["verdict"] != Verdict.STABLE]
    lines = ["", "## Drift", "", comparison["sentence"], *(f"- {feature['sentence']}" for feature in moved)]
    return "\n".join(lines) + "\n"
