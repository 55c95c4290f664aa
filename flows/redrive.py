"""The flow `redrive`: what a crash left behind is tried again, as it was planned."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect import flow, tags
from prefect.artifacts import create_markdown_artifact

from flows.errors import WorkFailed
from flows.operations.redrive import RedriveOptions, RedriveSummary
from flows.operations.redrive import redrive as run_again
from flows.settings import RunSettings
from flows.settings.loading import load_settings


@flow(name="redrive", log_prints=False, persist_result=False, retries=0)
def redrive(
    settings: RunSettings | None = None, max_attempts: int = 5, include_invalid: bool = False
) -> dict[str, Any]:
    """Try FAILED, ABORTED and abandoned units of the ledger again.

    Args:
        settings: where catalog, state folder and ledger are, and the device; the rest is in the ledger.
        max_attempts: units that were tried so often are left alone, so that no crash is repeated for ever.
        include_invalid: units whose input was found unusable, too.

    Raises:
        WorkFailed: a unit that was tried again is still not published.
    """
    wanted = settings or load_settings()
    # Automations that look after dead runs know ours by this tag.
    with tags("unveil"):
        summary = run_again(wanted, RedriveOptions(include_invalid, max_attempts))
    create_markdown_artifact(as_markdown(summary), key="redrive-report", description="Report of this redrive")
    if not summary.ok:
        raise WorkFailed(f"Not all could be published: {_first_problem(summary)}; see `unveil status --state FAILED`.")
    return asdict(summary)


def as_markdown(summary: RedriveSummary) -> str:
    """Return the report of a redrive."""
    units = [unit for run in summary.runs for unit in run.units]
    lines = [f"# redrive\n\n{len(units)} units were tried again."]
    lines += [f"- {unit.target_id}: {unit.state} {unit.error}".rstrip() for unit in units]
    lines += [f"- {target}: left alone, tried as often as allowed" for target in summary.exhausted]
    lines += [f"- {target}: its plan is not in the ledger; run the command again" for target in summary.without_plan]
    return "\n".join([*lines, *(f"- {error}" for error in summary.errors)]) + "\n"


def _first_problem(summary: RedriveSummary) -> str:
    failed = (unit.error or str(unit.state) for run in summary.runs for unit in run.units if not unit.item_href)
    return next(iter([*summary.errors, *failed]), "unknown").rstrip(".")
