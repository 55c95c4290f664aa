"""Units of a run mapped on its task runner: the task `process`, what all units share, and how each of them ended."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pystac
from prefect import task
from prefect.client.schemas.objects import State as TaskState
from prefect.states import Completed, Failed

from flows.errors import LedgerUnavailable, WorkerKilled, WorkFailed
from flows.ledger.leases import wait_for_others
from flows.ledger.schema import State
from flows.ledger.store import Ledger, open_ledger
from flows.models.model_item import ensure_model_item
from flows.planning.candidates import Refused
from flows.planning.workunit import ModelRef, Unit
from flows.processing.publishing import catalog_of
from flows.processing.unit import (
    Payload,
    RunContext,
    UnitResult,
    clear_staging,
    failure_of,
    payload_of,
    process_unit,
    record_failure,
)
from flows.progress import report_progress
from flows.running.task_runners import open_workers
from flows.running.tasks import RETRIES, ensure_gpu_limit, gpu_slot, gpus_of
from flows.services.prefect_server import through_restart
from flows.settings import RunSettings

_log = logging.getLogger("unveil")


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
    return [
        UnitResult("", "", each.target_id, State.FAILED if each.failed else State.INVALID, error=each.reason)
        for each in refused
    ]


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
