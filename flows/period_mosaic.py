"""The flow `mosaics`: one cloud-free image of a region for every period, and what opens it as a whole."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pystac
from prefect import flow, task
from prefect.context import FlowRunContext
from prefect.task_runners import ThreadPoolTaskRunner

from flows.ledger.schema import State, new_run_id
from flows.ledger.store import Ledger
from flows.mosaic import process_all, refused_results, report, run_context, run_ledger
from flows.planning.mosaics import MosaicJob, MosaicPlan, mosaic_jobs, plan_period
from flows.planning.workunit import ModelRef, MosaicUnit
from flows.preparation import Found, find, resolve_model, whole_work
from flows.processing.publishing import keep_mirrors, known_radiometry, mosaics_of, publish_staged
from flows.processing.unit import UnitResult
from flows.progress import report_progress
from flows.services.prefect_server import prefect_api
from flows.settings import RunSettings
from flows.settings.loading import load_settings
from flows.settings.mosaic_options import MosaicOptions
from flows.summary import RunSummary
from flows.task_runners import check_runner
from flows.tasks import RETRIES
from stac.errors import EmptySearch

_log = logging.getLogger("unveil")


@dataclass(frozen=True, slots=True)
class MosaicSummary(RunSummary):
    """How a run ended."""

    #: Names of the periods, and why some of them have no mosaic.
    periods: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    #: Paths of the items of whole regions.
    regions: tuple[str, ...] = ()


@dataclass(slots=True)
class _Done:
    """What a run has made so far."""

    units: list[UnitResult] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    remade: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    regions: list[str] = field(default_factory=list)
    scenes: int = 0


@task(name="plan", task_run_name="plan {job.period.name}", **RETRIES)
def plan(job: MosaicJob, model: ModelRef, items: Sequence[pystac.Item]) -> MosaicPlan:
    """Divide the region into cells, and bring all dates of the period to one radiometry."""
    report_progress(f"{job.period.name}: matching dates")
    return plan_period(job, items, model, known_radiometry(job))


@task(name="region", task_run_name="region {made.job.region.name} {made.job.period.name}", **RETRIES)
def publish_region(made: MosaicPlan, items: Sequence[pystac.Item], collection: Mapping[str, Any]) -> str:
    """Publish the item of the whole region: overview, VRT, MosaicJSON."""
    from flows.processing.region import make_region

    report_progress(f"{made.job.period.name}: whole region")
    settings = made.job.settings
    staging = mosaics_of(settings).staging(f"{made.region_work_id}-{uuid.uuid4().hex[:8]}")
    make_region(made, items, staging)
    return str(publish_staged(staging, settings, collection))


def _run_name() -> str:
    """Return the name of a run in the UI: what, and of when."""
    context = FlowRunContext.get()
    given = (context and context.parameters) or {}
    options, settings = given.get("mosaic") or MosaicOptions(), given.get("settings")
    when = f"the last {options.last}" if options.last else getattr(settings, "shown_dates", "")
    return f"{options.method} {options.period} {when}".strip()


#: Others by the setting `runner`, or by `mosaics.with_options(task_runner=...)`.
_IN_TURN: Any = ThreadPoolTaskRunner(max_workers=1)


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
    jobs, done = mosaic_jobs(wanted, options), _Done()
    model = resolve_model(wanted)
    with run_ledger(wanted, run_id) as ledger:
        for job in jobs:
            _make_period(job, model, ledger, run_id, done)
    keep_mirrors(wanted)
    summary = _summary(wanted, jobs, model, run_id, began, done)
    report(asdict(summary), "mosaics")
    summary.require_success(allow_invalid=wanted.allow_invalid)
    return summary


def run_mosaics(settings: RunSettings, options: MosaicOptions) -> MosaicSummary:
    """Run the flow against the configured Prefect server, or a local one for as long as it takes.

    When every mosaic is published already, no server is started.

    Raises:
        StacError, DeModelError, FlowError: the run could not start, or something of it failed.
    """
    began, jobs = time.monotonic(), mosaic_jobs(settings, options)
    model: ModelRef = resolve_model.fn(settings)
    done = _all_published(jobs, model)
    if done is not None:
        return _summary(settings, jobs, model, "", began, done)
    mosaics_of(settings).require_writable()
    with prefect_api(settings.state):
        stored: Any = settings.shareable
        result: MosaicSummary = mosaics(stored, options)
    return result


def _all_published(jobs: Sequence[MosaicJob], model: ModelRef) -> _Done | None:
    """Return what is published where nothing is left to make, else None."""
    done = _Done()
    for job in jobs:
        try:
            found: Found = find.fn(job.settings)
            known = known_radiometry(job)
            if known is None:
                return None
            planned = plan_period(job, found.items, model, known)
        except EmptySearch as error:
            done.empty.append(f"{job.period.name}: {error}")
            continue
        todo, has_region = _compared(found, planned, done)
        if todo or planned.refused or not has_region:
            return None
    return done


def _compared(found: Found, planned: MosaicPlan, done: _Done) -> tuple[list[MosaicUnit], bool]:
    """Compare a plan with what is published, and note it; return the units left to make, and whether the region is."""
    catalog = mosaics_of(planned.job.settings)
    wanted = [*(unit.work_id for unit in planned.units), planned.region_work_id]
    finished, broken = whole_work(catalog, catalog.published_work(survey=catalog.repair()), wanted)
    done.scenes += len(found.items)
    done.units += refused_results(planned.refused)
    done.remade += broken.values()
    done.already += [unit.item_id for unit in planned.units if unit.work_id in finished]
    todo = [unit for unit in planned.units if unit.work_id not in finished]
    return todo, planned.region_work_id in finished


def _summary(
    wanted: RunSettings, jobs: Sequence[MosaicJob], model: ModelRef, run_id: str, began: float, done: _Done
) -> MosaicSummary:
    """Return how a run ended.

    Raises:
        EmptySearch: no period has any scene.
    """
    if done.empty and not (done.units or done.already):
        raise EmptySearch(done.empty[0])
    periods = [job.period for job in jobs]
    return MosaicSummary(
        run_id=run_id,
        source=wanted.shown_source,
        collection=wanted.collection,
        datetime=f"{periods[0].first}/{periods[-1].last}",
        scenes=done.scenes,
        model=model,
        catalog=str(mosaics_of(wanted).catalog_path),
        units=tuple(done.units),
        already_done=tuple(done.already),
        seconds=time.monotonic() - began,
        remade=tuple(done.remade),
        periods=tuple(period.name for period in periods),
        empty=tuple(done.empty),
        regions=tuple(done.regions),
    )


def _make_period(job: MosaicJob, model: ModelRef, ledger: Ledger, run_id: str, done: _Done) -> None:
    """Search, plan, make and publish one period; what it was made of is let go at its end."""
    name, settings = job.period.name, job.settings
    try:
        found = find(settings)
        planned: MosaicPlan = plan(job, model, found.items)
    except EmptySearch as error:
        _log.warning("%s: %s", name, error)
        done.empty.append(f"{name}: {error}")
        return
    todo, has_region = _compared(found, planned, done)
    run = run_context(settings, model, found.collection, ledger, run_id, invalid_too=True)
    results = process_all(todo, found.items, run, settings, ledger)
    done.units += results
    if not planned.units or any(result.state is not State.SUCCEEDED for result in results):
        _log.warning("%s: the item of the region waits until all of its cells are there", name)
    elif results or not has_region:
        done.regions.append(publish_region(planned, found.items, found.collection))
