"""The main flow: find cloudy scenes, restore them, publish the mosaics, report."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.candidates import Cause, LeftOut, Refused
from flows.catalogs import catalog_of, indexes_of
from flows.drift.run_drift import watch_run
from flows.errors import LedgerUnavailable, ScenesInvalid, WorkFailed
from flows.frozen_plan import freeze
from flows.ledger.book import Ledger
from flows.ledger.opening import open_ledger
from flows.ledger.records import new_run_id
from flows.ledger.states import State
from flows.metrics.json_log import json_log
from flows.mirrors import keep_mirrors
from flows.models.model_item import ensure_model_item
from flows.progress import tell
from flows.quality import review_note
from flows.report import left_out_table, run_markdown, unit_table
from flows.rolling import recent
from flows.runners.base import Runner
from flows.runners.opening import check_runner, open_runner
from flows.scenes import source_of
from flows.services.outage import through_restart
from flows.settings import RunSettings
from flows.tasks import RETRIES, Staged, find, plan, publish, resolve_model, restore
from flows.unit import discard_blocks
from flows.work import ModelRef, Plan, WorkUnit
from flows.working import Made, UnitResult, Worker, settle, work_through
from stac.access.locations import Location
from stac.errors import StacError
from stac.publish import StaticCatalog
from stac.shelves import broken_work, finished_work, repair_shelves
from stac.sources.sentinel_hub.units import METER

_log = logging.getLogger("unveil")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run ended."""

    run_id: str
    source: str
    collection: str
    datetime: str
    #: Scenes found, targets and donors.
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
    #: What the run restored against the training set (`DriftReport.document`); None where there is no comparison.
    drift: dict[str, Any] | None = None
    #: Scenes and versions that no unit was made for.
    left_out: tuple[LeftOut, ...] = ()
    #: What was wrong with published products that this run made again, one sentence each.
    remade: tuple[str, ...] = ()

    def require_success(self, *, allow_invalid: bool) -> None:
        """Raise when a scene failed, or cannot be used.

        Args:
            allow_invalid: scenes that cannot be used are no failure.

        Raises:
            WorkFailed: scenes failed.
            ScenesInvalid: scenes cannot be used, and none failed.
        """
        failed, invalid = ([u for u in self.units if u.state is state] for state in (State.FAILED, State.INVALID))
        if not failed and (allow_invalid or not invalid):
            return
        total, first = len(self.units) + len(self.already_done), (failed or invalid)[0]
        counts = [f"{len(failed)} failed"] if failed else []
        counts += [f"{len(invalid)} cannot be used"] if invalid else []
        kind = WorkFailed if failed else ScenesInvalid
        raise kind(f"Of {total} scenes {' and '.join(counts)}. The first, {first.target_id}: {first.error}", self)


@task(name="drift", **RETRIES)
def drift(settings: Mapping[str, Any], model: ModelRef, run_id: str, work_ids: Sequence[str]) -> dict[str, Any] | None:
    """Compare what the run restored with the training set of its model; return the comparison."""
    return watch_run(RunSettings(**settings), model, run_id, work_ids)


@task(name="report", **RETRIES)
def report(summary: Mapping[str, Any]) -> None:
    """Store the run's tables and report as Prefect artifacts."""
    table, text, patient = unit_table(summary["units"]), run_markdown(summary), through_restart()
    patient(create_table_artifact, table, key="work-units", description="Work units of this run")
    if summary["left_out"]:
        rows = left_out_table(summary["left_out"])
        patient(create_table_artifact, rows, key="left-out", description="Scenes that no unit was made for, and why")
    patient(create_markdown_artifact, text, key="clear-scenes-report", description="Report of this run")


@flow(name="clear-scenes", log_prints=False, persist_result=False, retries=0)
def clear_scenes(
    settings: dict[str, Any] | None = None,
    plan_file: str | None = None,
    invalid_too: bool = False,
    last_days: int | None = None,
) -> RunSummary:
    """Find cloudy scenes, restore them with Diffusion Enhancement, and publish cloud-free mosaics.

    Args:
        settings: names and values as in a `--config` file; the environment and defaults fill the rest.
        plan_file: a frozen plan; its units are made, and no other.
        invalid_too: try units again that were found INVALID before.
        last_days: restore the last days instead of `datetime` of the settings: what a schedule wants.

    Raises:
        WorkFailed: a unit failed; the others are published.
        ScenesInvalid: a scene cannot be used, none failed, and the settings do not allow it.
        LedgerUnavailable: the work ledger does not answer.
        WorkersLost: those who restore are gone; the next run goes on.
    """
    began, run_id, units_before = time.monotonic(), new_run_id(), _billed()
    wanted = recent(RunSettings(**(settings or {})), last_days)
    check_runner(wanted)
    folder = wanted.state / "runs" / run_id.replace(":", "-")
    catalog, ledger = catalog_of(wanted), open_ledger(wanted)
    try:
        finished = repair_shelves(catalog, wanted.gate_limits)
        with indexes_of(wanted) as indexes:
            indexes.reconcile(tell=tell)
        with json_log(wanted.log_json, run_id):
            scenes, model, planned = _prepare(wanted, source_of(wanted), folder, plan_file)
            run = _Run(run_id, wanted.shareable, wanted, scenes, model, catalog)
            done, broken = published_work(catalog, planned, wanted, finished)
            request_id = ledger.remember(freeze((), wanted, model).request)
            settle(ledger, planned.units, done, request_id)
            # A run that was killed just after publishing could not.
            discard_blocks([unit.work_id for unit in planned.units if unit.work_id in done], wanted)
            todo = [unit for unit in planned.units if unit.work_id not in done]
            results = [_refused(refused) for refused in planned.refused]
            if todo:
                ensure_model_item(catalog, model)
                with open_runner(wanted, Path(scenes)) as runner:
                    worker = _worker(run, runner, ledger, request_id, invalid_too=invalid_too)
                    results += work_through(worker, todo)
        keep_mirrors(wanted)
    finally:
        _leave(ledger, run_id)
    restored = [unit.work_id for unit in results if unit.figures is not None]
    summary = RunSummary(
        run_id=run_id,
        source=wanted.shown_source,
        collection=wanted.collection,
        datetime=wanted.datetime,
        scenes=planned.scenes,
        model=model,
        catalog=str(catalog.catalog_path),
        units=tuple(results),
        already_done=tuple(unit.item_id for unit in planned.units if unit.work_id in done),
        seconds=time.monotonic() - began,
        processing_units=_billed() - units_before + sum(run.billed_elsewhere),
        drift=drift(wanted.shareable, model, run_id, restored),
        left_out=planned.left_out,
        remade=tuple(broken.values()),
    )
    report(asdict(summary))
    summary.require_success(allow_invalid=wanted.allow_invalid)
    return summary


def published_work(
    catalog: StaticCatalog, planned: Plan, settings: RunSettings, finished: Mapping[str, Location] | None = None
) -> tuple[dict[str, Location], dict[str, str]]:
    """Return the places of units that are published whole, and what is wrong with the others, by work id.

    Units of other plans count as they are linked: only what this plan wants is looked at.

    Args:
        catalog: any collection of the catalog.
        planned: the plan.
        settings: thresholds of the gate.
        finished: places of published work by id, from `repair_shelves`; read from the catalog when left out.
    """
    done = finished_work(catalog, settings.gate_limits) if finished is None else finished
    mine = {unit.work_id: done[unit.work_id] for unit in planned.units if unit.work_id in done}
    broken = broken_work(catalog, mine)
    for reason in broken.values():
        _log.warning("a published product is broken and made again: %s", reason)
    return {work_id: place for work_id, place in done.items() if work_id not in broken}, broken


def _billed() -> float:
    """Return what Sentinel Hub has billed this process."""
    return METER.spent


@dataclass(frozen=True, slots=True)
class _Run:
    """What every unit of a run shares."""

    id: str
    values: dict[str, Any]
    settings: RunSettings
    scenes: str
    model: ModelRef
    catalog: StaticCatalog
    #: What Sentinel Hub billed other processes for, unit by unit.
    billed_elsewhere: list[float] = field(default_factory=list)


def _worker(run: _Run, runner: Runner, ledger: Ledger, request_id: str, *, invalid_too: bool) -> Worker:
    wanted, catalog = run.settings, run.catalog
    return Worker(
        ledger=ledger,
        run_id=run.id,
        request_id=request_id,
        make=lambda unit, fence: _make(run, runner, unit, fence),
        clean=lambda unit: _clean(catalog, unit),
        published=lambda unit: published_work(catalog, Plan((unit,), (), 0), wanted)[0].get(unit.work_id),
        held_wait_s=wanted.held_wait_s,
        invalid_too=invalid_too,
        width=lambda: runner.in_flight,
        stop=runner.stop,
    )


def _prepare(wanted: RunSettings, location: str, folder: Path, plan_file: str | None) -> tuple[str, ModelRef, Plan]:
    """Return the file of the scenes, the model and the plan."""
    values = wanted.shareable
    tell(f"searching {wanted.source}")
    found = find(values, location, str(folder))
    tell(f"resolving {wanted.model}")
    model = resolve_model(values)
    planned = plan(values, found, model, plan_file)
    for each in planned.left_out:
        if each.cause is not Cause.CLOUD:
            _log.warning("left out: %s", each.reason)
    return found.scenes, model, planned


def _leave(ledger: Ledger, run_id: str) -> None:
    """Give back what the run still holds; an unreachable ledger finds out when the leases run out."""
    with contextlib.suppress(LedgerUnavailable):
        ledger.abort(run_id)
    ledger.close()


def _refused(refused: Refused) -> UnitResult:
    _log.warning("%s", refused.reason)
    return UnitResult("", "", refused.target_id, State.INVALID, "", None, refused.reason)


def _make(run: _Run, runner: Runner, unit: WorkUnit, fence: Callable[[], None]) -> Made:
    """Restore one unit wherever the runner has it done, and publish it from here, where its lease is held."""
    tell(f"{unit.target_id}: reading")
    staged: Staged = runner.call(
        restore,
        settings=run.values,
        unit=unit,
        scenes=run.scenes,
        model=run.model,
        staging=str(run.catalog.staging(unit.work_id)),
        run_id=run.id,
    )
    if runner.elsewhere:
        run.billed_elsewhere.append(staged.processing_units)
    tell(f"{unit.target_id}: publishing")
    fence()
    href = publish(run.values, unit.item_id, staged.folder, _collection(run.scenes))
    discard_blocks([unit.work_id], run.settings)
    return Made(href, staged.figures, review_note(run.catalog, unit.item_id))


def _clean(catalog: StaticCatalog, unit: WorkUnit) -> None:
    with contextlib.suppress(StacError):
        shutil.rmtree(catalog.staging(unit.work_id), ignore_errors=True)


def _collection(scenes: str) -> dict[str, Any]:
    return dict(json.loads((Path(scenes).parent / "collection.json").read_text("utf-8")))
