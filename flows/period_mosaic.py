"""The flow `mosaics`: one cloud-free image of a region for every period, and what opens it as a whole."""

from __future__ import annotations

import contextlib
import logging
import random
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import pystac
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.context import FlowRunContext
from prefect.task_runners import ThreadPoolTaskRunner

from flows.errors import LedgerUnavailable
from flows.ledger.schema import Entry, Job, Lease, State, new_run_id
from flows.ledger.store import Heartbeat, Ledger, open_ledger
from flows.models.model_item import ensure_model_item
from flows.planning.mosaics import MosaicPlan, MosaicUnit, Region, of_period, plan_period, region_of
from flows.planning.periods import Period, periods_of
from flows.planning.workunit import ModelRef
from flows.preparation import Found, find, resolve_model
from flows.processing.mosaic_catalog import known_radiometry, mosaics_of, region_work_id
from flows.processing.publishing import keep_mirrors
from flows.processing.unit import (
    UnitResult,
    clear_staging,
    failure_of,
    left_to_others,
    make_under_lease,
    result_of,
)
from flows.progress import report_progress
from flows.reports.page import run_markdown, unit_table
from flows.services.prefect_server import prefect_api, through_restart
from flows.settings import RunSettings
from flows.settings.loading import load_settings
from flows.settings.mosaic_options import MosaicOptions
from flows.summary import RunSummary
from flows.task_runners import check_runner, open_workers
from flows.tasks import RETRIES, gpu_slot
from stac.catalog.product_collections import broken_work
from stac.composite.region import Radiometry
from stac.errors import EmptySearch, StacError

_log = logging.getLogger("unveil")
#: Between two looks at a unit that another run holds, seconds.
_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class MosaicSummary(RunSummary):
    """How a run ended."""

    #: Names of the periods, and why some of them have no mosaic.
    periods: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    #: Paths of the items of whole regions.
    regions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Payload:
    """A unit with all that it takes to make it anywhere: STAC items and radiometry travel with it."""

    unit: MosaicUnit
    items: tuple[Mapping[str, Any], ...]
    radiometry: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shared:
    """What all units of a run share."""

    run_id: str
    #: Settings of the period (`RunSettings.shareable`).
    settings: Mapping[str, Any]
    options: MosaicOptions
    model: ModelRef
    #: JSON of the source's collection.
    collection: Mapping[str, Any]


@dataclass(slots=True)
class _Done:
    """What a run has made so far."""

    units: list[UnitResult] = field(default_factory=list)
    already: list[str] = field(default_factory=list)
    remade: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    regions: list[str] = field(default_factory=list)
    scenes: int = 0


@task(name="plan", task_run_name="plan {period.name}", **RETRIES)
def plan(
    settings: RunSettings,
    options: MosaicOptions,
    region: Region,
    period: Period,
    model: ModelRef,
    items: Sequence[pystac.Item],
) -> MosaicPlan:
    """Divide the region into cells, and bring all dates of the period to one radiometry."""
    report_progress(f"{period.name}: matching dates")
    known = _known(settings, options, region, period)
    return plan_period(items, settings, options, region, period, model, known)


@task(name="mosaic", task_run_name="mosaic {payload.unit.target_id}", **RETRIES)
def mosaic_cell(payload: Payload, shared: Shared) -> UnitResult:
    """Claim, make and publish the mosaic of one cell.

    Raises:
        Exception: whatever went wrong with it; the ledger has it, too.
    """
    return _claimed(payload, shared, RunSettings(**shared.settings))


@task(name="region", task_run_name="region {made.region.name} {made.period.name}", **RETRIES)
def publish_region(
    settings: RunSettings,
    options: MosaicOptions,
    made: MosaicPlan,
    items: Sequence[pystac.Item],
    collection: Mapping[str, Any],
) -> str:
    """Publish the item of the whole region: overview, VRT, MosaicJSON."""
    from flows.processing.period import make_region, publish_staged

    report_progress(f"{made.period.name}: whole region")
    staging = mosaics_of(settings).staging(f"{region_work_id(made)}-{uuid.uuid4().hex[:8]}")
    make_region(made, items, settings, options, staging)
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
    region, done = region_of(wanted, options), _Done()
    model = resolve_model(wanted)
    ensure_model_item(mosaics_of(wanted), model)
    with _giving_back(wanted, run_id):
        for period in periods_of(options.period, wanted.dates, options.last):
            _make_period(wanted, options, region, period, model, run_id, done)
    keep_mirrors(wanted)
    summary = _summary(wanted, options, model, run_id, began, done)
    _report(summary)
    summary.require_success(allow_invalid=wanted.allow_invalid)
    return summary


def run_mosaics(settings: RunSettings, options: MosaicOptions) -> MosaicSummary:
    """Run the flow against the configured Prefect server, or a local one for as long as it takes.

    When every mosaic is published already, no server is started.

    Raises:
        StacError, DeModelError, FlowError: the run could not start, or something of it failed.
    """
    began, region = time.monotonic(), region_of(settings, options)
    first = periods_of(options.period, settings.dates, options.last)[0]
    _ = of_period(settings, region, first).query  # a wrong area is reported at once
    model: ModelRef = resolve_model.fn(settings)
    done = _all_published(settings, options, region, model)
    if done is not None:
        return _summary(settings, options, model, "", began, done)
    mosaics_of(settings).require_writable()
    with prefect_api(settings.state, log=report_progress):
        stored: Any = settings.shareable
        result: MosaicSummary = mosaics(stored, options)
    return result


def _all_published(wanted: RunSettings, options: MosaicOptions, region: Region, model: ModelRef) -> _Done | None:
    """Return what is published where nothing is left to make, else None."""
    done = _Done()
    for period in periods_of(options.period, wanted.dates, options.last):
        settings = of_period(wanted, region, period)
        try:
            found: Found = find.fn(settings)
            known = _known(settings, options, region, period)
            if known is None:
                return None
            planned = plan_period(found.items, settings, options, region, period, model, known)
        except EmptySearch as error:
            done.empty.append(f"{period.name}: {error}")
            continue
        todo, has_region = _compared(settings, found, planned, done)
        if todo or planned.refused or not has_region:
            return None
    return done


def _known(settings: RunSettings, options: MosaicOptions, region: Region, period: Period) -> dict[str, Any] | None:
    """Return the radiometry of the published mosaic of a region and period, None without one."""
    start = period.start.strftime("%Y-%m-%dT%H:%M:%SZ")
    return known_radiometry(settings, region.name, period.name, start, options.method)


def _compared(settings: RunSettings, found: Found, planned: MosaicPlan, done: _Done) -> tuple[list[MosaicUnit], bool]:
    """Compare a plan with what is published, and note it; return the units left to make, and whether the region is."""
    done.scenes += len(found.items)
    done.units += [UnitResult("", "", each.target_id, State.INVALID, error=each.reason) for each in planned.refused]
    finished, broken = _published(settings, planned)
    done.remade += broken
    done.already += [unit.item_id for unit in planned.units if unit.work_id in finished]
    todo = [unit for unit in planned.units if unit.work_id not in finished]
    return todo, region_work_id(planned) in finished


def _summary(
    wanted: RunSettings, options: MosaicOptions, model: ModelRef, run_id: str, began: float, done: _Done
) -> MosaicSummary:
    """Return how a run ended.

    Raises:
        EmptySearch: no period has any scene.
    """
    if done.empty and not (done.units or done.already):
        raise EmptySearch(done.empty[0])
    periods = periods_of(options.period, wanted.dates, options.last)
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


def _make_period(
    wanted: RunSettings,
    options: MosaicOptions,
    region: Region,
    period: Period,
    model: ModelRef,
    run_id: str,
    done: _Done,
) -> None:
    """Search, plan, make and publish one period; what it was made of is let go at its end."""
    settings = of_period(wanted, region, period)
    try:
        found = find(settings)
        planned: MosaicPlan = plan(settings, options, region, period, model, found.items)
    except EmptySearch as error:
        _log.warning("%s: %s", period.name, error)
        done.empty.append(f"{period.name}: {error}")
        return
    todo, has_region = _compared(settings, found, planned, done)
    shared = Shared(run_id, settings.shareable, options, model, found.collection)
    by_id = {item.id: item for item in found.items}
    results: list[UnitResult] = []
    if todo:
        with open_workers(settings) as workers:
            payloads = (_payload(planned, unit, by_id) for unit in todo)
            ended = workers.map(mosaic_cell, payloads, shared=shared)
            results = [e if isinstance(e, UnitResult) else failure_of(payload.unit, e) for payload, e in ended]
    done.units += results
    if not planned.units or any(result.state is not State.SUCCEEDED for result in results):
        _log.warning("%s: the item of the region waits until all of its cells are there", period.name)
    elif results or not has_region:
        done.regions.append(publish_region(settings, options, planned, found.items, found.collection))


def _payload(planned: MosaicPlan, unit: MosaicUnit, items: Mapping[str, pystac.Item]) -> Payload:
    names = [item_id for date in unit.dates for item_id in date]
    documents = tuple(items[name].to_dict(include_self_link=True, transform_hrefs=False) for name in names)
    return Payload(unit, documents, planned.radiometry_of(unit).to_dict())


def _published(settings: RunSettings, planned: MosaicPlan) -> tuple[set[str], list[str]]:
    """Return the work ids of the plan that are published whole, and what is wrong with others."""
    catalog = mosaics_of(settings)
    places = catalog.published_work(survey=catalog.repair())
    wanted = {*(unit.work_id for unit in planned.units), region_work_id(planned)}
    mine = {work_id: place for work_id, place in places.items() if work_id in wanted}
    broken = broken_work(catalog, mine)
    for reason in broken.values():
        _log.warning("a published mosaic is broken and made again: %s", reason)
    return set(mine) - set(broken), list(broken.values())


def _claimed(payload: Payload, shared: Shared, settings: RunSettings) -> UnitResult:
    """Make a unit under a lease of the ledger; return what another run made of it where that one has it."""
    unit = payload.unit
    staging = f"{unit.work_id}-{uuid.uuid4().hex[:8]}"
    with contextlib.closing(open_ledger(settings)) as ledger:
        lease = _claim(ledger, unit, shared.run_id, settings)
        if isinstance(lease, Entry):
            return left_to_others(unit, lease)
        make = partial(_make, payload, shared, settings, staging)
        return make_under_lease(ledger, lease, unit, make, lambda: clear_staging(staging, settings))


def _claim(ledger: Ledger, unit: MosaicUnit, run_id: str, settings: RunSettings) -> Lease | Entry:
    """Claim a unit; wait for one that another run holds as long as the settings say."""
    job = Job(unit.work_id, unit.item_id, unit.target_id, unit.cell_id)
    deadline = time.monotonic() + settings.held_wait_s
    while True:
        # What an earlier run published is not here: its item is gone, or this run would not ask.
        found = ledger.claim(job, run_id, again={State.FAILED, State.ABORTED, State.INVALID})
        if isinstance(found, Entry) and found.state is State.SUCCEEDED and not _is_there(settings, unit):
            found = ledger.claim(job, run_id, again=set(State))
        if isinstance(found, Lease) or not found.held or time.monotonic() > deadline:
            return found
        report_progress(f"{unit.target_id}: waiting for another run")
        time.sleep(_POLL_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter


def _is_there(settings: RunSettings, unit: MosaicUnit) -> bool:
    return not mosaics_of(settings).damage(unit.item_id, unit.work_id)


def _make(payload: Payload, shared: Shared, settings: RunSettings, folder: str, pulse: Heartbeat) -> UnitResult:
    """Make and publish a mosaic; return its figures and the path of its item."""
    from flows.processing.period import make_mosaic, publish_staged

    unit, staging = payload.unit, mosaics_of(settings).staging(folder)
    items = {str(each["id"]): pystac.Item.from_dict(dict(each)) for each in payload.items}

    def progress(what: str, number: int, total: int) -> None:
        report_progress(f"{unit.target_id}: {what}", number, total)

    with gpu_slot(settings):
        radiometry = Radiometry.from_dict(payload.radiometry)
        figures = make_mosaic(unit, items, settings, shared.options, radiometry, shared.model, staging, progress)
        report_progress(f"{unit.target_id}: publishing")
        pulse.require()
        href = str(publish_staged(staging, settings, shared.collection))
    return result_of(unit, State.SUCCEEDED, figures=figures, item_href=href)


@contextlib.contextmanager
def _giving_back(settings: RunSettings, run_id: str) -> Iterator[None]:
    """At the end give back what the run still holds, if the ledger answers: leases run out, too."""
    try:
        yield
    finally:
        with contextlib.suppress(LedgerUnavailable, StacError), contextlib.closing(open_ledger(settings)) as ledger:
            ledger.abort(run_id)


def _report(summary: MosaicSummary) -> None:
    """Store the run's table and report as Prefect artifacts."""
    document, patient = asdict(summary), through_restart()
    patient(create_table_artifact, unit_table(document["units"]), key="mosaics", description="Mosaics of this run")
    text = run_markdown(document) + "".join(f"\n- Region: `{place}`" for place in summary.regions)
    patient(create_markdown_artifact, text, key="mosaics-report", description="Report of this run")
