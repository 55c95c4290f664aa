"""The report of a run: Markdown, and the rows of table artifacts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flows.drift.compare import Verdict
from flows.planning.candidates import Cause

#: Of a table artifact.
_ROWS = 1000


def run_markdown(summary: Mapping[str, Any], name: str) -> str:
    """Return the report of a run of the flow `name` as markdown; its units are a table of their own."""
    title = f"# {name} {summary['run_id']}"
    origin = (
        f"Source `{summary['source']}`, collection `{summary['collection']}`, {summary['datetime']}; "
        f"model {summary['model']['name']} version {summary['model']['version']}."
    )
    states = Counter(str(unit["state"]) for unit in summary["units"])
    ended = ", ".join(f"{number} {state}" for state, number in states.items()) or "none to do"
    remade = "".join(f"\n- Made again: {reason}" for reason in summary["remade"])
    passed = Counter(str(each["cause"]) for each in summary["left_out"])
    left_out = ", ".join(f"{number} for {cause}" for cause, number in passed.items())
    regions = "".join(f"\n- Region: `{place}`" for place in summary.get("regions", ()))
    notes = f"{remade}{regions}\n\nLeft out: {left_out or 'nothing'}.\n"
    return f"{title}\n\n{origin}\n\nUnits: {ended}.\n{notes}{drift_markdown(summary.get('drift'))}"


def unit_table(units: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the Prefect table artifact; `error` says what to know about a unit that succeeded, too."""
    return [
        {
            "target": u["target_id"],
            "state": u["state"],
            "item": u["item_href"],
            "error": str(u["error"] or u.get("note", "")),
        }
        | {name: round(value, 3) for name, value in (u["figures"] or {}).items()}
        for u in units
    ]


def left_out_table(left_out: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the table artifact of scenes that no unit was made for; unusable items come first."""
    rows = sorted(left_out, key=lambda row: (row["cause"] != Cause.UNUSABLE, row["cause"], row["target_id"]))
    return [{"scene": row["target_id"], "cause": str(row["cause"]), "reason": row["reason"]} for row in rows[:_ROWS]]


def drift_markdown(comparison: Mapping[str, Any] | None) -> str:
    """Return the section of a run's report; empty where nothing was compared."""
    if comparison is None:
        return ""
    moved = [f for f in comparison["features"] if f["verdict"] != Verdict.STABLE]
    lines = ["", "## Drift", "", comparison["sentence"], *(f"- {feature['sentence']}" for feature in moved)]
    return "\n".join(lines) + "\n"
