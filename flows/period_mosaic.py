"""The flow `mosaics`: one cloud-free image of a region for every period, and what opens it as a whole."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pystac
from prefect import flow, task
from prefect.context import FlowRunContext
from prefect.task_runners import ThreadPoolTaskRunner

from flows.ledger.schema import State, new_run_id
from flows.ledger.store import Ledger
from flows.models.model_item import ensure_model_item
from flows.planning.candidates import Refused
from flows.planning.mosaics import MosaicJob, MosaicPlan, NothingUsable, mosaic_jobs, plan_period
from flows.planning.workunit import ModelRef, MosaicUnit, passed_over
from flows.processing.publishing import (
    indexes_of,
    keep_mirrors,
    known_radiometry,
    mosaics_of,
    own_staging,
    publish_staged,
)
from flows.processing.unit import UnitResult
from flows.progress import report_progress
from flows.running.preparation import SearchResult, find, handed_over, handing_over, resolve_model, whole_work
from flows.running.summary import RunSummary, report
from flows.running.task_runners import check_runner
from flows.running.tasks import RETRIES
from flows.running.unit_tasks import process_all, refused_results, run_context, run_ledger
from flows.services.prefect_server import prefect_api
from flows.settings import RunSettings
from flows.settings.loading import load_settings
from flows.settings.mosaic_options import MosaicOptions
from stac.errors import EmptySearch
from stac.search.source import Skipped

_log = logging.getLogger("unveil")
#: Others by the setting `runner`, or by `mosaics.with_options(task_runner=...)`.
_IN_TURN: Any = ThreadPoolTaskRunner(max_workers=1)


@dataclass(frozen=True, slots=True)
class MosaicSummary(RunSummary):
    """How a run ended."""

    #: Names of the periods, and why some of them have no mosaic.
    periods: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    #: Paths of the items of whole regions.
    regions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Period:
    """A period that was searched, planned and compared with what is published."""

    found: SearchResult
    plan: MosaicPlan
    #: Units left to make.
    todo: tuple[MosaicUnit, ...]
    #: The item of the whole region is published.
    has_region: bool


@dataclass(frozen=True, slots=True)
class _Empty:
    """A period of which no mosaic can be made."""

    reason: str
    #: Scenes and cells that cannot be used, and items that the search passed over.
    refused: tuple[Refused, ...] = ()
    skipped: Sequence[Skipped] = ()


#: A period that was searched and planned.
_Planned = tuple[SearchResult, MosaicPlan] | _Empty


@dataclass(slots=True)
class _Run:
    """What is wanted, and what came of it so far."""

    jobs: Sequence[MosaicJob]
    model: ModelRef
    #: By name of the period: planned by the command, which looked for the first one with anything left to make.
    planned: dict[str, _Planned] = field(default_factory=dict)
    scenes: int = 0
    units: list[UnitResult] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    remade: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    #: Each once, as a search may pass the same item over in every period.
    passed_over: dict[Skipped, None] = field(default_factory=dict)
    regions: list[str] = field(default_factory=list)


@task(name="resolve model", **RETRIES)
def begin(settings: RunSettings, options: MosaicOptions) -> _Run:
    """Say what is wanted, bring indexes up to date, and resolve the model, unless the command of this run has."""
    handed: _Run | None = handed_over()
    if handed is not None:
        return handed
    jobs = mosaic_jobs(settings, options)
    with indexes_of(settings) as indexes:
        indexes.reconcile(progress=report_progress)
    return _Run(jobs, resolve_model(settings))


@task(name="plan", task_run_name="plan {job.period.name}", **RETRIES)
def plan(job: MosaicJob, model: ModelRef) -> _Planned:
    """Search a period, divide the region into cells, and bring all dates to one radiometry.

    What the command of this run has planned is not planned twice.
    """
    handed: _Run | None = handed_over()
    if handed is not None and job.period.name in handed.planned:
        return handed.planned.pop(job.period.name)
    skipped: Sequence[Skipped] = ()
    try:
        found = find(job.settings)
        skipped = found.skipped
        report_progress(f"{job.period.name}: matching dates")
        return found, plan_period(job, found.items, model, known_radiometry(job))
    except EmptySearch as error:
        _log.warning("%s: %s", job.period.name, error)
        refused = error.refused if isinstance(error, NothingUsable) else ()
        return _Empty(f"{job.period.name}: {error}", refused, skipped)


@task(name="region", task_run_name="region {made.job.region.name} {made.job.period.name}", **RETRIES)
def publish_region(made: MosaicPlan, items: Sequence[pystac.Item], collection: Mapping[str, Any]) -> str:
    """Publish the item of the whole region: overview, VRT, MosaicJSON."""
    from flows.processing.publishing import make_region

    report_progress(f"{made.job.period.name}: whole region")
    settings = made.job.settings
    with own_staging(mosaics_of(settings), made.region_work_id) as staging:
        make_region(made, items, staging)
        return str(publish_staged(staging, settings, collection))


def _run_name() -> str:
    """Return the name of a run in the UI: what, and of when."""
    context = FlowRunContext.get()
    given = (context and context.parameters) or {}
    options, settings = given.get("mosaic") or MosaicOptions(), given.get("settings")
    when = f"the last {options.last}" if options.last else getattr(settings, "shown_dates", "")
    return f"{options.method} {options.period} {when}".strip()


@flow(
    name="mosaics",
    flow_run_name=_run_name,
    task_runner=_IN_TURN,
    log_prints=False,
    persist_result=False,
    retries=0,
)
def mosaics(settings: RunSettings | None = None, mosaic: MosaicOptions | None = None) -> MosaicSummary:
    """Make cloud-free mosaics of a region, one for every period, and publish them.

    Args:
        settings: as in a `--config` file; the environment and defaults fill the rest.
        mosaic: period, region and method.

    Raises:
        WorkFailed: a cell failed; the others are published.
        ScenesInvalid: a cell cannot be made, none failed, and the settings do not allow it.
        EmptySearch: no period has any scene.
    """
    began, run_id = time.monotonic(), new_run_id()
    wanted, options = settings or load_settings(), mosaic or MosaicOptions()
    check_runner(wanted)
    run = begin(wanted, options)
    with run_ledger(wanted, run_id) as ledger:
        for job in run.jobs:
            if (period := _compared(run, job, plan(job, run.model))) is not None:
                _make_period(run, period, ledger, run_id)
    keep_mirrors(wanted)
    summary = _summary(wanted, run, run_id, began)
    report(asdict(summary), "mosaics")
    summary.require_success(allow_invalid=wanted.allow_invalid)
    return summary


def run_mosaics(settings: RunSettings, options: MosaicOptions) -> MosaicSummary:
    """Run the flow against the configured Prefect server, or a local one for as long as it takes.

    When every mosaic is published already, no server is started.

    Raises:
        StacError, DeModelError, FlowError: the run could not start, or something of it failed.
    """
    began, run = time.monotonic(), begin.fn(settings, options)
    known: dict[str, _Planned] = {}
    for job in run.jobs:
        known[job.period.name] = plan.fn(job, run.model)
        period = _compared(run, job, known[job.period.name])
        if period is not None and (period.todo or period.plan.refused or not period.has_region):
            break
    else:
        keep_mirrors(settings)
        summary = _summary(settings, run, "", began)
        summary.require_success(allow_invalid=settings.allow_invalid)
        return summary
    mosaics_of(settings).require_writable()
    with handing_over(_Run(run.jobs, run.model, known)), prefect_api(settings.state):
        stored: Any = settings.shareable
        result: MosaicSummary = mosaics(stored, options)
    return result


def _compared(run: _Run, job: MosaicJob, planned: _Planned) -> _Period | None:
    """Compare a period with what is published, and note that; None where it has no scene."""
    if isinstance(planned, _Empty):
        run.empty.append(planned.reason)
        run.units += refused_results(planned.refused)
        run.passed_over |= dict.fromkeys(planned.skipped)
        return None
    (found, wanted), catalog = planned, mosaics_of(job.settings)
    run.passed_over |= dict.fromkeys(found.skipped)
    work_ids = [*(unit.work_id for unit in wanted.units), wanted.region_work_id]
    finished, broken = whole_work(catalog, catalog.published_work(survey=catalog.repair()), work_ids)
    if finished:
        ensure_model_item(catalog, run.model)  # what is there links to it
    run.scenes += len(found.items)
    run.units += refused_results(wanted.refused)
    run.remade += broken.values()
    run.already += [unit.item_id for unit in wanted.units if unit.work_id in finished]
    todo = tuple(unit for unit in wanted.units if unit.work_id not in finished)
    return _Period(found, wanted, todo, wanted.region_work_id in finished)


def _make_period(run: _Run, period: _Period, ledger: Ledger, run_id: str) -> None:
    """Make and publish a period."""
    job, found = period.plan.job, period.found
    context = run_context(job.settings, run.model, found.collection, ledger, run_id, invalid_too=True)
    results = process_all(period.todo, found.items, context, job.settings, ledger)
    run.units += results
    allowed = job.settings.allow_invalid and not any(each.failed for each in period.plan.refused)
    whole = period.plan.units and (period.plan.whole or allowed)
    if not whole or any(result.state is not State.SUCCEEDED for result in results):
        _log.warning("%s: the item of the region waits until all of its cells are there", job.period.name)
    elif results or not period.has_region:
        run.regions.append(publish_region(period.plan, found.items, found.collection))


def _summary(wanted: RunSettings, run: _Run, run_id: str, began: float) -> MosaicSummary:
    """Return how a run ended.

    Raises:
        EmptySearch: no period has any scene.
    """
    if run.empty and not (run.units or run.already):
        raise EmptySearch(run.empty[0])
    periods = [job.period for job in run.jobs]
    return MosaicSummary(
        run_id=run_id,
        source=wanted.shown_source,
        collection=wanted.collection,
        datetime=f"{periods[0].first}/{periods[-1].last}",
        scenes=run.scenes,
        model=run.model,
        catalog=str(mosaics_of(wanted).catalog_path),
        units=tuple(run.units),
        already_done=tuple(run.already),
        seconds=time.monotonic() - began,
        left_out=tuple(passed_over(each) for each in run.passed_over),
        remade=tuple(run.remade),
        periods=tuple(period.name for period in periods),
        empty=tuple(run.empty),
        regions=tuple(run.regions),
    )
