"""The main flow: find cloudy scenes, restore them with Diffusion Enhancement, publish the mosaics, report.

`run_clear_scenes` is the same for a command: it prepares first, and starts a Prefect server only when there is work.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pystac
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State as TaskState
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.drift.units import watch_run
from flows.errors import LedgerUnavailable, WorkerKilled, WorkFailed
from flows.ledger.leases import wait_for_others
from flows.ledger.opening import open_ledger
from flows.ledger.schema import State, new_run_id
from flows.ledger.store import Ledger, reconcile
from flows.models.model_item import ensure_model_item
from flows.planning.candidates import Refused
from flows.planning.plan_file import FrozenPlan, read_plan
from flows.planning.workunit import ModelRef, Unit
from flows.preparation import PreparedRun, handing_over, plan, prepare_run
from flows.processing.publishing import catalog_of, discard_blocks, keep_mirrors
from flows.processing.unit import (
    Payload,
    RunContext,
    UnitResult,
    clear_staging,
    failure_of,
    job_of,
    payload_of,
    process_unit,
    record_failure,
)
from flows.progress import report_progress
from flows.reports.run import left_out_table, run_markdown, unit_table
from flows.services.prefect_client import through_restart
from flows.services.prefect_server import prefect_api
from flows.settings import RunSettings
from flows.settings.loading import load_settings, recent
from flows.summary import RunSummary, summary_of
from flows.task_runners import check_runner, open_workers
from flows.tasks import RETRIES, ensure_gpu_limit, gpu_slot, gpus_of
from stac.search.sentinel_hub.client import METER

_log = logging.getLogger("unveil")


def _run_name() -> str:
    """Return the name of a run in the UI: what, and of when."""
    context = FlowRunContext.get()
    given = (context and context.parameters) or {}
    settings = _settings(given.get("settings"), given.get("last_days"))
    return f"{settings.collection} {settings.shown_dates}"


#: Others by the setting `runner`, or by `clear_scenes.with_options(task_runner=...)`.
_ONE_THREAD: Any = ThreadPoolTaskRunner(max_workers=1)


@flow(
    name="clear-scenes",
    flow_run_name=_run_name,
    task_runner=_ONE_THREAD,
    log_prints=False,
    persist_result=False,
    retries=0,
)
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
        WorkersLost: there are no workers left; the next run goes on.
    """
    began, run_id, billed = time.monotonic(), new_run_id(), _billed()
    wanted = _settings(settings, last_days)
    check_runner(wanted)
    with run_ledger(wanted, run_id) as ledger:
        frozen = None if plan_file is None else read_plan(plan_file)
        ready = plan(wanted, frozen)
        request_id = _reconciled(ready, ledger)
        run = run_context(
            wanted, ready.model, ready.found.collection, ledger, run_id, request_id=request_id, invalid_too=invalid_too
        )
        made = process_all(ready.todo, ready.found.items, run, wanted, ledger)
        units = refused_results(ready.plan.refused) + made
        keep_mirrors(wanted)
    compared = drift(wanted, ready.model, run_id, [unit.item_id for unit in units if unit.figures is not None])
    spent = _billed() - billed + sum(unit.processing_units for unit in units)
    summary = summary_of(ready, run_id, time.monotonic() - began, units, processing_units=spent, drift=compared)
    report(asdict(summary), "clear-scenes")
    summary.require_success(allow_invalid=wanted.allow_invalid)
    return summary


@task(name="process", task_run_name="process {payload.unit.target_id}", **RETRIES)
def process(payload: Payload, run: RunContext) -> UnitResult | TaskState[UnitResult]:
    """Make one unit, a scene or a cell of a mosaic, under a lease of the ledger, and publish it."""
    result = process_unit(payload, run, gpu_slot)
    match result.state:
        case State.RUNNING:
            return Completed(name="Skipped", message=result.error, data=result)
        case State.INVALID:
            return Failed(name="Invalid", message=result.error, data=result)
        case _:
            return result


def process_all(
    units: Sequence[Unit],
    items: Iterable[pystac.Item],
    run: RunContext,
    settings: RunSettings,
    ledger: Ledger,
) -> list[UnitResult]:
    """Map `process` over units; return how each ended, in their order.

    Units that other runs hold are left to them, and looked at again at the end.
    """
    if not units:
        return []
    ensure_model_item(catalog_of(settings), run.model)
    if gpus := gpus_of(settings):
        through_restart()(ensure_gpu_limit, gpus)
    by_id, results = {item.id: item for item in items}, dict[str, UnitResult]()
    with open_workers(settings) as workers:

        def map_units(some: Sequence[Unit]) -> None:
            for given, ended in workers.map(process, (payload_of(unit, by_id) for unit in some), run=run):
                results[given.unit.work_id] = _result(given.unit, ended, run, ledger)

        map_units(units)
        held = [unit for unit in units if results[unit.work_id].state is State.RUNNING]
        if held:
            report_progress(f"waiting for {len(held)} units of other runs")
            wait_for_others(ledger, [unit.work_id for unit in held], settings.held_wait_s)
            map_units(held)
    return [results[unit.work_id] for unit in units]


@task(name="drift", **RETRIES)
def drift(settings: RunSettings, model: ModelRef, run_id: str, item_ids: Sequence[str]) -> dict[str, Any] | None:
    """Compare what the run restored with the training set of its model; return the comparison."""
    return watch_run(settings, model, run_id, item_ids)


@task(name="report", **RETRIES)
def report(summary: Mapping[str, Any], name: str) -> None:
    """Store the tables and the report of a run of the flow `name` as Prefect artifacts."""
    patient = through_restart()
    patient(create_table_artifact, unit_table(summary["units"]), key="work-units", description="Work units of this run")
    if summary["left_out"]:
        rows = left_out_table(summary["left_out"])
        patient(create_table_artifact, rows, key="left-out", description="Scenes that no unit was made for, and why")
    text = run_markdown(summary, name) + "".join(f"\n- Region: `{place}`" for place in summary.get("regions", ()))
    patient(create_markdown_artifact, text, key=f"{name}-report", description="Report of this run")


def run_clear_scenes(
    settings: RunSettings, frozen: FrozenPlan | None = None, *, invalid_too: bool = False
) -> RunSummary:
    """Run the main flow against the configured Prefect server, or a local one for as long as it takes.

    When every unit is published already, no server is started.

    Args:
        settings: of the run; those of the plan where one is given (`settings_of`).
        frozen: a plan whose units are made, and no other.
        invalid_too: try units again that were found INVALID before.

    Raises:
        InvalidPlan: the plan cannot be executed.
        StacError, DeModelError, FlowError: the run could not start, or something of it failed.
    """
    began = time.monotonic()
    ready = prepare_run(settings, frozen)
    if ready.plan.units and not (ready.plan.refused or ready.todo):
        with contextlib.closing(open_ledger(settings)) as ledger:
            _reconciled(ready, ledger)
        return summary_of(ready, "", time.monotonic() - began)
    catalog_of(settings).require_writable()
    with handing_over(ready), prefect_api(settings.state):
        # As values that may be stored with the run: it finds secrets in the environment again.
        stored: Any = settings.shareable
        result: RunSummary = clear_scenes(stored, invalid_too=invalid_too)
    return result


# A function, as a flow travels to workers with the objects that it names, and the meter cannot.
def _billed() -> float:
    return METER.spent


def _settings(settings: RunSettings | None, last_days: int | None) -> RunSettings:
    return recent(settings or load_settings(), last_days)


@contextlib.contextmanager
def run_ledger(settings: RunSettings, run_id: str) -> Iterator[Ledger]:
    """Open the ledger; at the end release what the run still holds, if it answers: leases run out, too."""
    ledger = open_ledger(settings)
    try:
        yield ledger
    finally:
        with contextlib.suppress(LedgerUnavailable):
            for work_id in ledger.abort(run_id):
                clear_staging(work_id, settings)
        ledger.close()


def run_context(
    settings: RunSettings,
    model: ModelRef,
    collection: Mapping[str, Any],
    ledger: Ledger,
    run_id: str,
    **more: Any,
) -> RunContext:
    """Return what the units of a run share; paths are absolute where its workers have other working folders."""
    if settings.dask_scheduler:
        there = {"out": settings.out.absolute() if isinstance(settings.out, Path) else settings.out}
        settings = settings.model_copy(update=there | {"state_dir": settings.state.absolute()})
    return RunContext(run_id, settings.shareable, model, collection, ledger.shown, **more)


def refused_results(refused: Sequence[Refused]) -> list[UnitResult]:
    """Return how scenes and cells end that no unit could be made for."""
    for each in refused:
        _log.warning("%s", each.reason)
    return [UnitResult("", "", each.target_id, State.INVALID, error=each.reason) for each in refused]


def _reconciled(ready: PreparedRun, ledger: Ledger) -> str:
    """Let the ledger know what is published, as a killed run could not; return the id of settings and model there."""
    request_id = ledger.save_request(ready.request)
    done = [unit for unit in ready.plan.units if unit.work_id in ready.done]
    reconcile(ledger, [job_of(unit, request_id) for unit in done], ready.done)
    discard_blocks([unit.work_id for unit in done], ready.settings)
    return request_id


def _result(unit: Unit, ended: Any, run: RunContext, ledger: Ledger) -> UnitResult:
    """Return how a unit ended, from what its task returned or raised."""
    if isinstance(ended, UnitResult):
        return ended
    if isinstance(ended, LedgerUnavailable):
        raise ended  # without it no unit can be claimed
    if isinstance(ended, WorkerKilled):
        return record_failure(ledger, unit, run, ended)
    if not isinstance(ended, Exception):
        raise WorkFailed(f"Task of {unit.target_id} ended without a result: {ended!r}")
    return failure_of(unit, ended)
