"""The flow `redrive`: what failed, was stopped or was left behind is tried again, exactly as it was planned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from prefect import flow, tags
from prefect.artifacts import create_markdown_artifact

from flows.errors import KNOWN_ERRORS, InvalidSettings, ScenesInvalid, ServiceUnavailable, WorkFailed
from flows.ledger.schema import HELD, Lease, Planned, State, is_dead
from flows.ledger.store import AGAIN, Ledger, existing_ledger, place_of
from flows.mosaic import run_clear_scenes
from flows.planning.plan_file import FrozenPlan, settings_of, thaw
from flows.processing.unit import job_of
from flows.progress import report_progress
from flows.running.summary import RunSummary
from flows.settings import RunSettings
from flows.settings.loading import load_settings

#: Units of one run: bounds memory and the size of a plan.
_UNITS_PER_RUN = 500


@dataclass(frozen=True, slots=True)
class RedriveSummary:
    """How a redrive ended."""

    runs: tuple[RunSummary, ...]
    #: Runs of which nothing succeeded, one sentence each.
    errors: tuple[str, ...]
    #: Targets that were tried as often as allowed.
    exhausted: tuple[str, ...]
    #: Mosaics of a period, which the command that made them continues: the ledger holds no plan of them.
    without_plan: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Everything that was tried again is published."""
        ended = (unit.state for run in self.runs for unit in run.units)
        return not self.errors and all(state is State.SUCCEEDED for state in ended)

    @property
    def unusable(self) -> bool:
        """What is not published cannot be used, and nothing failed: another try does not help."""
        ended = {unit.state for run in self.runs for unit in run.units}
        return not self.errors and State.INVALID in ended and ended <= {State.SUCCEEDED, State.INVALID}


@flow(name="redrive", log_prints=False, persist_result=False, retries=0)
def redrive(
    settings: RunSettings | None = None, max_attempts: int = 5, include_invalid: bool = False
) -> dict[str, Any]:
    """Try FAILED, ABORTED and abandoned units of the ledger again.

    Args:
        settings: where catalog, state folder and ledger are, and the device; the rest is in the ledger.
        max_attempts: units with this many attempts are skipped, so that no crash is repeated for ever.
        include_invalid: units whose input was found unusable, too.

    Raises:
        WorkFailed: a unit that was tried again is still not published.
        ScenesInvalid: units that were tried again cannot be used, and none failed.
    """
    wanted = settings or load_settings()
    # Automations that look after dead runs know ours by this tag.
    with tags("unveil"):
        summary = redrive_units(wanted, max_attempts, include_invalid)
    create_markdown_artifact(as_markdown(summary), key="redrive-report", description="Report of this redrive")
    if not summary.ok:
        kind = ScenesInvalid if summary.unusable else WorkFailed
        raise kind(f"Not all could be published: {_first_problem(summary)}; see `unveil status --state FAILED`.")
    return asdict(summary)


def redrive_units(settings: RunSettings, max_attempts: int = 5, include_invalid: bool = False) -> RedriveSummary:
    """Run FAILED, ABORTED and abandoned units again, with the settings and the model they were planned with.

    The arguments are those of the flow.

    Raises:
        InvalidSettings: there is no ledger.
        ServiceUnavailable: a service that every run needs does not answer.
    """
    runs: list[RunSummary] = []
    errors: list[str] = []
    exhausted: list[str] = []
    without_plan: list[str] = []
    batches: dict[str, list[str]] = defaultdict(list)
    if (ledger := existing_ledger(settings)) is None:
        raise InvalidSettings(
            f"There is no ledger {place_of(settings)[0].database}: name the catalog with --out, or its --state-dir."
        )
    with closing(ledger):
        for planned in _candidates(ledger, include_invalid):
            if planned.entry.attempts >= max_attempts:
                exhausted.append(planned.entry.target_id)
            elif not (planned.unit and planned.request_id):
                without_plan.append(planned.entry.target_id)
            else:
                batches[planned.request_id].append(planned.unit)
        for request_id, units in batches.items():
            request = ledger.request(request_id) or ""
            for first in range(0, len(units), _UNITS_PER_RUN):
                try:
                    plan = thaw(request, units[first : first + _UNITS_PER_RUN])
                    report_progress(f"{len(plan.units)} units are tried again")
                    runs.append(run_clear_scenes(settings_of(plan, settings), plan, invalid_too=include_invalid))
                except ServiceUnavailable:
                    raise  # no run can do without
                except KNOWN_ERRORS as error:
                    ended = getattr(error, "summary", None)
                    if ended is None:
                        errors.append(str(error))
                    else:
                        runs.append(ended)
                        _count_refused(ledger, plan, request_id, ended)
    return RedriveSummary(tuple(runs), tuple(errors), tuple(exhausted), tuple(without_plan))


def _count_refused(ledger: Ledger, plan: FrozenPlan, request_id: str, ended: RunSummary) -> None:
    """Record an attempt for each unit that could not be made as planned: no task did, as none was begun."""
    known = {unit.work_id for unit in ended.units}
    published = {*ended.already_done, *ended.in_review}
    refused = [unit for unit in plan.units if unit.work_id not in known and unit.item_id not in published]
    results = [result for result in ended.units if not result.work_id]
    # Both are in the order of the plan; where they differ, nothing is known of a single unit.
    if len(refused) != len(results):
        return
    for unit, result in zip(refused, results, strict=True):
        entry = ledger.entry(unit.work_id)
        # What failed stays free for a run that finds its scenes again.
        state = State.INVALID if entry is not None and entry.state is State.INVALID else State.FAILED
        lease = ledger.claim(job_of(unit, request_id), ended.run_id, again={*AGAIN, state})
        if isinstance(lease, Lease):
            ledger.finish(lease, state, error=result.error)


def _candidates(ledger: Ledger, include_invalid: bool) -> Iterator[Planned]:
    states = [State.FAILED, State.ABORTED, *HELD, *([State.INVALID] if include_invalid else [])]
    for planned in ledger.planned(states):
        if not planned.entry.held or is_dead(planned.entry.run_id):
            yield planned


def as_markdown(summary: RedriveSummary) -> str:
    """Return the report of a redrive."""
    units = [unit for run in summary.runs for unit in run.units]
    lines = [f"# redrive\n\n{len(units)} units were tried again."]
    lines += [f"- {unit.target_id}: {unit.state} {unit.error}".rstrip() for unit in units]
    lines += [f"- {target}: skipped, tried as often as allowed" for target in summary.exhausted]
    lines += [f"- {target}: `unveil mosaic` continues it" for target in summary.without_plan]
    return "\n".join([*lines, *(f"- {error}" for error in summary.errors)]) + "\n"


def _first_problem(summary: RedriveSummary) -> str:
    failed = (unit.error or str(unit.state) for run in summary.runs for unit in run.units if not unit.item_href)
    return next(iter([*summary.errors, *failed]), "unknown").rstrip(".")
