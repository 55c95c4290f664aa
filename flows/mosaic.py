"""The main flow: find cloudy scenes, restore them with Diffusion Enhancement, publish the mosaics, report.

`run_clear_scenes` is the same for a command: it looks first, and starts a Prefect server only when there is work.
Either way scenes are searched and planned once (`prepared`).
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pystac
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.context import FlowRunContext

from flows.drift.alarms import watch_run
from flows.errors import LedgerUnavailable, ScenesInvalid, WorkFailed
from flows.execution.opening import check_runner, open_runner
from flows.execution.tasks import RETRIES, Staged, publish, restore
from flows.execution.threads import Runner
from flows.execution.units import Made, UnitResult, Worker, settle, work_through
from flows.json_log import json_log
from flows.ledger.schema import State, new_run_id
from flows.ledger.store import Ledger, open_ledger
from flows.models.model_item import ensure_model_item
from flows.models.resolving import resolve
from flows.planning.candidates import Cause, LeftOut, Refused
from flows.planning.plan_file import freeze, read_plan, revive, write_plan
from flows.planning.search import find_scenes, source_of, write_items
from flows.planning.workunit import ModelRef, Plan, WorkUnit, make_plan
from flows.processing.product import discard_blocks, review_note
from flows.processing.publishing import catalog_of, indexes_of, keep_mirrors
from flows.progress import tell
from flows.reports.page import left_out_table, run_markdown, unit_table
from flows.services.prefect_server import prefect_api, through_restart
from flows.settings import RunSettings
from flows.settings.loading import load_settings, recent
from stac.catalog.publish import StaticCatalog
from stac.catalog.shelves import broken_work, finished_work, repair_shelves
from stac.errors import StacError
from stac.io.s3 import Location
from stac.search.sentinel_hub.client import METER
from stac.search.source import Skipped

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


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found."""

    items: Sequence[pystac.Item]
    skipped: Sequence[Skipped]
    #: JSON of the source's collection.
    collection: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a run works on: searched, resolved and planned once."""

    settings: RunSettings
    found: Found
    model: ModelRef
    plan: Plan
    #: Published units of the plan by work id, and what is wrong with those that have to be made again.
    done: Mapping[str, Location]
    broken: Mapping[str, str]

    @property
    def todo(self) -> list[WorkUnit]:
        """Units that are not published, or broken."""
        return [unit for unit in self.plan.units if unit.work_id not in self.done]

    def summary(self, run_id: str, seconds: float, units: Sequence[UnitResult] = (), **more: Any) -> RunSummary:
        """Return how the run ended."""
        return RunSummary(
            run_id=run_id,
            source=self.settings.shown_source,
            collection=self.settings.collection,
            datetime=self.settings.datetime,
            scenes=self.plan.scenes,
            model=self.model,
            catalog=str(catalog_of(self.settings).catalog_path),
            units=tuple(units),
            already_done=tuple(unit.item_id for unit in self.plan.units if unit.work_id in self.done),
            seconds=seconds,
            left_out=self.plan.left_out,
            remade=tuple(self.broken.values()),
            **more,
        )


@task(name="find", **RETRIES)
def find(settings: RunSettings) -> Found:
    """Search the source."""
    tell(f"searching {settings.shown_source}")
    items, source = find_scenes(settings, source_of(settings))
    return Found(items, source.skipped, source.collection(settings.collection))


@task(name="resolve model", **RETRIES)
def resolve_model(settings: RunSettings) -> ModelRef:
    """Resolve the model's alias once and fetch its weights."""
    tell(f"resolving {settings.model}")
    return resolve(settings)


@task(name="plan", **RETRIES)
def plan(settings: RunSettings, found: Found, model: ModelRef, frozen: Path | None = None) -> Plan:
    """Turn scenes into work units: those of a frozen plan where one is named, else all that the settings want."""
    if frozen is not None:
        return revive(read_plan(frozen), found.items, settings, model)
    return make_plan(found.items, settings, model, found.skipped)


@task(name="drift", **RETRIES)
def drift(settings: RunSettings, model: ModelRef, run_id: str, work_ids: Sequence[str]) -> dict[str, Any] | None:
    """Compare what the run restored with the training set of its model; return the comparison."""
    return watch_run(settings, model, run_id, work_ids)


@task(name="report", **RETRIES)
def report(summary: Mapping[str, Any]) -> None:
    """Store the run's tables and report as Prefect artifacts."""
    table, text, patient = unit_table(summary["units"]), run_markdown(summary), through_restart()
    patient(create_table_artifact, table, key="work-units", description="Work units of this run")
    if summary["left_out"]:
        rows = left_out_table(summary["left_out"])
        patient(create_table_artifact, rows, key="left-out", description="Scenes that no unit was made for, and why")
    patient(create_markdown_artifact, text, key="clear-scenes-report", description="Report of this run")


def _run_name() -> str:
    """Return the name of a run in the UI: what, and of when."""
    context = FlowRunContext.get()
    given = (context and context.parameters) or {}
    settings = _settings(given.get("settings"), given.get("last_days"))
    return f"{settings.collection} {settings.datetime}"


@flow(name="clear-scenes", flow_run_name=_run_name, log_prints=False, persist_result=False, retries=0)
def clear_scenes(
    settings: RunSettings | None = None,
    plan_file: Path | None = None,
    invalid_too: bool = False,
    last_days: int | None = None,
) -> RunSummary:
    """Find cloudy scenes, restore them with Diffusion Enhancement, and publish cloud-free mosaics.

    Args:
        settings: as in a `--config` file; the environment and defaults fill the rest.
        plan_file: a frozen plan; its units are made, and no other.
        invalid_too: try units again that were found INVALID before.
        last_days: restore the last days instead of `datetime` of the settings: what a schedule wants.

    Raises:
        WorkFailed: a unit failed; the others are published.
        ScenesInvalid: a scene cannot be used, none failed, and the settings do not allow it.
        LedgerUnavailable: the work ledger does not answer.
        WorkersLost: those who restore are gone; the next run goes on.
    """
    began, run_id, billed = time.monotonic(), new_run_id(), _billed()
    wanted = _settings(settings, last_days)
    check_runner(wanted)
    with _ledger_of(wanted, run_id) as ledger, json_log(wanted.log_json, run_id):
        ready = _handed() or prepared(wanted, plan_file, repair=True, tasks=True)
        request_id = _reconcile(ready, ledger)
        results = [_refused(refused) for refused in ready.plan.refused]
        run = _Run(run_id, ready)
        if ready.todo:
            ensure_model_item(run.catalog, ready.model)
            with open_runner(wanted, run.write_scenes()) as runner:
                results += work_through(_worker(run, runner, ledger, request_id, invalid_too=invalid_too), ready.todo)
        keep_mirrors(wanted)
    restored = [unit.work_id for unit in results if unit.figures is not None]
    compared = drift(wanted, ready.model, run_id, restored)
    spent = _billed() - billed + sum(run.billed_elsewhere)
    summary = ready.summary(run_id, time.monotonic() - began, results, processing_units=spent, drift=compared)
    report(asdict(summary))
    summary.require_success(allow_invalid=wanted.allow_invalid)
    return summary


def run_clear_scenes(settings: RunSettings, plan_file: Path | None = None, *, invalid_too: bool = False) -> RunSummary:
    """Run the main flow against the configured Prefect server, or a local one for as long as it takes.

    When every unit is published already, no server is started.

    Args:
        settings: of the run; those of the plan where one is given (`settings_of`).
        plan_file: a frozen plan whose units are made, and no other.
        invalid_too: try units again that were found INVALID before.

    Raises:
        InvalidPlan: the plan cannot be executed.
        StacError, DeModelError, FlowError: the run could not start, or something of it failed.
    """
    began = time.monotonic()
    ready = prepared(settings, plan_file, repair=True)
    if ready.plan.units and not (ready.plan.refused or ready.todo):
        with contextlib.closing(open_ledger(settings)) as ledger:
            _reconcile(ready, ledger)
        return ready.summary("", time.monotonic() - began)
    catalog_of(settings).require_writable()
    handed = _HANDED.set(ready)
    try:
        with prefect_api(settings.state, log=tell):
            # As values that may be stored with the run: it finds secrets in the environment again.
            stored: Any = settings.shareable
            result: RunSummary = clear_scenes(stored, plan_file, invalid_too)
    finally:
        _HANDED.reset(handed)
    return result


def plan_rows(settings: RunSettings, freeze_to: Path | None = None) -> list[dict[str, Any]]:
    """Return what a run would do, one row for each scene: new, done, invalid or left out.

    Args:
        settings: of the run.
        freeze_to: file that the plan is frozen into.
    """
    ready = prepared(settings)
    if freeze_to is not None:
        write_plan(freeze_to, freeze(ready.plan.units, settings, ready.model))
    rows: list[dict[str, Any]] = [
        {
            "state": "done" if unit.work_id in ready.done else "new",
            "target_id": unit.target_id,
            "work_id": unit.work_id,
            "item_id": unit.item_id,
            "cell_id": unit.cell_id,
            "cloud_cover": unit.cloud_cover,
            "donors": len(unit.donor_ids),
            "megapixels": round(unit.pixels / 1e6, 2),
            "reason": ready.broken.get(unit.work_id, ""),
        }
        for unit in ready.plan.units
    ]
    others = [("invalid", each) for each in ready.plan.refused] + [("left out", each) for each in ready.plan.left_out]
    empty = {"work_id": "", "item_id": "", "cell_id": "", "cloud_cover": "", "donors": "", "megapixels": ""}
    return rows + [{"state": state, "target_id": e.target_id, "reason": e.reason} | empty for state, e in others]


#: What a command has prepared for the run that it calls.
_HANDED: ContextVar[Prepared | None] = ContextVar("unveil_prepared", default=None)


# Functions, as a flow travels to workers with the objects that it names, and these two cannot.
def _handed() -> Prepared | None:
    return _HANDED.get()


def _billed() -> float:
    return METER.spent


def prepared(
    settings: RunSettings, plan_file: Path | None = None, *, repair: bool = False, tasks: bool = False
) -> Prepared:
    """Return what a run would work on.

    Args:
        settings: of the run.
        plan_file: a frozen plan.
        repair: put right what crashes left in the catalog and in the indexes that follow it.
        tasks: within a run of the flow, whose tasks the steps are.
    """
    settings.query  # noqa: B018 - a wrong area or interval is reported before anything is asked
    catalog = catalog_of(settings)
    steps: Sequence[Any] = (find, resolve_model, plan)
    search, resolve_, plan_ = steps if tasks else [step.fn for step in steps]
    finished = None
    if repair:
        finished = repair_shelves(catalog, settings.gate_limits)
        with indexes_of(settings) as indexes:
            indexes.reconcile(tell=tell)
    model: ModelRef = resolve_(settings)
    found: Found = search(settings)
    work: Plan = plan_(settings, found, model, plan_file)
    for each in work.left_out:
        if each.cause is not Cause.CLOUD:
            _log.warning("left out: %s", each.reason)
    return Prepared(settings, found, model, work, *published_work(catalog, work, settings, finished))


def published_work(
    catalog: StaticCatalog, planned: Plan, settings: RunSettings, finished: Mapping[str, Location] | None = None
) -> tuple[dict[str, Location], dict[str, str]]:
    """Return the places of the plan's units that are published whole, and what is wrong with others, by work id.

    Args:
        catalog: any collection of the catalog.
        planned: the plan.
        settings: thresholds of the gate.
        finished: places of published work by id, from `repair_shelves`; read from the catalog when left out.
    """
    linked = finished_work(catalog, settings.gate_limits) if finished is None else finished
    mine = {unit.work_id: linked[unit.work_id] for unit in planned.units if unit.work_id in linked}
    broken = broken_work(catalog, mine)
    for reason in broken.values():
        _log.warning("a published product is broken and made again: %s", reason)
    return {work_id: place for work_id, place in mine.items() if work_id not in broken}, broken


def _settings(settings: RunSettings | None, last_days: int | None) -> RunSettings:
    return recent(settings or load_settings(), last_days)


def _reconcile(ready: Prepared, ledger: Ledger) -> str:
    """Let the ledger know what is published, as a killed run could not; return the id of this run's request."""
    request_id = ledger.remember(freeze((), ready.settings, ready.model).request)
    settle(ledger, ready.plan.units, ready.done, request_id)
    discard_blocks([unit.work_id for unit in ready.plan.units if unit.work_id in ready.done], ready.settings)
    return request_id


@contextlib.contextmanager
def _ledger_of(settings: RunSettings, run_id: str) -> Iterator[Ledger]:
    """Open the ledger; at the end give back what the run still holds, if it answers: leases run out, too."""
    ledger = open_ledger(settings)
    try:
        yield ledger
    finally:
        with contextlib.suppress(LedgerUnavailable):
            ledger.abort(run_id)
        ledger.close()


@dataclass(frozen=True, slots=True)
class _Run:
    """What every unit of a run shares."""

    id: str
    ready: Prepared
    #: What Sentinel Hub billed other processes for, unit by unit.
    billed_elsewhere: list[float] = field(default_factory=list)

    @property
    def catalog(self) -> StaticCatalog:
        return catalog_of(self.ready.settings)

    @property
    def scenes(self) -> Path:
        """File of the scenes, which workers read."""
        return self.ready.settings.state / "runs" / self.id.replace(":", "-") / "scenes.json"

    def write_scenes(self) -> Path:
        """Write the file of the scenes; return it."""
        return write_items(self.scenes, list(self.ready.found.items))


def _worker(run: _Run, runner: Runner, ledger: Ledger, request_id: str, *, invalid_too: bool) -> Worker:
    wanted, catalog = run.ready.settings, run.catalog
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


def _refused(refused: Refused) -> UnitResult:
    _log.warning("%s", refused.reason)
    return UnitResult("", "", refused.target_id, State.INVALID, "", None, refused.reason)


def _make(run: _Run, runner: Runner, unit: WorkUnit, fence: Callable[[], None]) -> Made:
    """Restore one unit wherever the runner has it done, and publish it from here, where its lease is held."""
    tell(f"{unit.target_id}: reading")
    staged: Staged = runner.call(
        restore,
        settings=run.ready.settings.shareable,
        unit=unit,
        scenes=str(run.scenes),
        model=run.ready.model,
        staging=str(run.catalog.staging(unit.work_id)),
        run_id=run.id,
    )
    if runner.elsewhere:
        run.billed_elsewhere.append(staged.processing_units)
    tell(f"{unit.target_id}: publishing")
    fence()
    href = publish(run.ready.settings.shareable, unit.item_id, staged.folder, run.ready.found.collection)
    discard_blocks([unit.work_id], run.ready.settings)
    return Made(href, staged.figures, review_note(run.catalog, unit.item_id))


def _clean(catalog: StaticCatalog, unit: WorkUnit) -> None:
    with contextlib.suppress(StacError):
        shutil.rmtree(catalog.staging(unit.work_id), ignore_errors=True)
