"""How a run that makes units ended, and its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.drift.compare import Verdict
from flows.errors import ScenesInvalid, WorkFailed
from flows.ledger.schema import State
from flows.planning.candidates import Cause, LeftOut
from flows.planning.workunit import ModelRef
from flows.processing.publishing import catalog_of
from flows.processing.unit import UnitResult
from flows.running.preparation import PreparedRun
from flows.running.tasks import RETRIES
from flows.services.prefect_server import through_restart
from stac.catalog.product_collections import ProductCollection

#: What is said of units that are not published; what is worst comes first.
_UNDONE = {
    "failed": (State.FAILED,),
    "were stopped": (State.ABORTED,),
    "held by another run": (State.CLAIMED, State.RUNNING),
    "cannot be used": (State.INVALID,),
}
#: Rows of a table artifact.
_ROWS = 1000


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run ended."""

    run_id: str
    source: str
    collection: str
    datetime: str
    #: Scenes found, targets and source dates.
    scenes: int
    model: ModelRef
    #: Root of the catalog.
    catalog: str
    units: tuple[UnitResult, ...]
    #: Ids of items that an earlier run published.
    already_done: tuple[str, ...]
    seconds: float
    #: What Sentinel Hub billed for the pixels of this run.
    processing_units: float = 0.0
    #: What the run restored against the training set (`DriftReport.document`); None without a comparison.
    drift: dict[str, Any] | None = None
    #: Scenes and versions that no unit was made for.
    left_out: tuple[LeftOut, ...] = ()
    #: Ids of items that an earlier run left for review; they are made again when the gate or its limits change.
    in_review: tuple[str, ...] = ()
    #: What was wrong with published products that this run made again, one sentence each.
    remade: tuple[str, ...] = ()

    def require_success(self, *, allow_invalid: bool) -> None:
        """Raise when a scene is not published, or cannot be used.

        Raises:
            WorkFailed: scenes failed, were stopped, or are held by another run to the end.
            ScenesInvalid: scenes cannot be used, and none failed.
        """
        ended = {what: [unit for unit in self.units if unit.state in states] for what, states in _UNDONE.items()}
        counts = [f"{len(units)} {what}" for what, units in ended.items() if units]
        unusable = all(unit.state in (State.SUCCEEDED, State.INVALID) for unit in self.units)
        if not counts or (unusable and allow_invalid):
            return
        total = len(self.units) + len(self.already_done) + len(self.in_review)
        first = next(units[0] for units in ended.values() if units)
        kind = ScenesInvalid if unusable else WorkFailed
        raise kind(f"Of {total} scenes {' and '.join(counts)}. The first, {first.target_id}: {first.error}", self)


def summary_of(
    ready: PreparedRun, run_id: str, seconds: float, units: Sequence[UnitResult] = (), **more: Any
) -> RunSummary:
    """Return how the run ended."""
    there = [unit for unit in ready.plan.units if unit.work_id in ready.done]
    # By id, in the order of the plan.
    waiting = dict.fromkeys(
        unit.item_id for unit in there if ready.done[unit.work_id].parent.parent.name == ProductCollection.REVIEW
    )
    return RunSummary(
        run_id=run_id,
        source=ready.settings.shown_source,
        collection=ready.settings.collection,
        datetime=ready.settings.shown_dates,
        scenes=ready.plan.scenes,
        model=ready.model,
        catalog=str(catalog_of(ready.settings).catalog_path),
        units=tuple(units),
        already_done=tuple(unit.item_id for unit in there if unit.item_id not in waiting),
        seconds=seconds,
        left_out=ready.plan.left_out,
        in_review=tuple(waiting),
        remade=tuple(ready.broken.values()),
        **more,
    )


@task(name="report", **RETRIES)
def report(summary: Mapping[str, Any], name: str) -> None:
    """Store the tables and the report of a run of the flow `name` as Prefect artifacts."""
    patient = through_restart()
    patient(create_table_artifact, unit_table(summary["units"]), key="work-units", description="Work units of this run")
    if summary["left_out"]:
        rows = _left_out_table(summary["left_out"])
        patient(create_table_artifact, rows, key="left-out", description="Scenes that no unit was made for, and why")
    patient(
        create_markdown_artifact, run_markdown(summary, name), key=f"{name}-report", description="Report of this run"
    )


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


def _left_out_table(left_out: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
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
