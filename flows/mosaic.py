"""The main flow: find cloudy scenes, restore them with Diffusion Enhancement, publish the mosaics, report.

`run_clear_scenes` is the same for a command: it prepares first, and starts a Prefect server only when there is work.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.context import FlowRunContext
from prefect.task_runners import ThreadPoolTaskRunner

from flows.drift.compare import watch_run
from flows.ledger.schema import new_run_id
from flows.ledger.store import Ledger, open_ledger, reconcile
from flows.planning.plan_file import FrozenPlan, read_plan
from flows.planning.workunit import ModelRef
from flows.processing.publishing import catalog_of, discard_blocks, keep_mirrors
from flows.processing.unit import job_of
from flows.running.preparation import PreparedRun, handing_over, plan, prepare_run
from flows.running.summary import RunSummary, report, summary_of
from flows.running.task_runners import check_runner
from flows.running.tasks import RETRIES
from flows.running.unit_tasks import process_all, refused_results, run_context, run_ledger
from flows.services.prefect_server import prefect_api
from flows.settings import RunSettings
from flows.settings.loading import load_settings, recent
from stac.search.sentinel_hub.client import METER

#: Others by the setting `runner`, or by `clear_scenes.with_options(task_runner=...)`.
_ONE_THREAD: Any = ThreadPoolTaskRunner(max_workers=1)


def _run_name() -> str:
    """Return the name of a run in the UI: what, and of when."""
    context = FlowRunContext.get()
    given = (context and context.parameters) or {}
    settings = _settings(given.get("settings"), given.get("last_days"))
    return f"{settings.collection} {settings.shown_dates}"


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


@task(name="drift", **RETRIES)
def drift(settings: RunSettings, model: ModelRef, run_id: str, item_ids: Sequence[str]) -> dict[str, Any] | None:
    """Compare what the run restored with the training set of its model; return the comparison."""
    return watch_run(settings, model, run_id, item_ids)


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
        keep_mirrors(settings)
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


def _reconciled(ready: PreparedRun, ledger: Ledger) -> str:
    """Let the ledger know what is published, as a killed run could not; return the id of settings and model there."""
    request_id = ledger.save_request(ready.request)
    done = [unit for unit in ready.plan.units if unit.work_id in ready.done]
    reconcile(ledger, [job_of(unit, request_id) for unit in done], ready.done)
    discard_blocks([unit.work_id for unit in done], ready.settings)
    return request_id
