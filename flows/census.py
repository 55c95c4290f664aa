"""The flow `census`: what a search finds against what is published; nothing may be missing unseen.

Of scenes every product is counted, of mosaics every cell of every period and the item of the whole region.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum, unique
from pathlib import Path, PurePosixPath
from typing import Any

import pystac
from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.errors import CensusIncomplete, InvalidSettings
from flows.ledger.schema import Entry, State, is_dead
from flows.ledger.store import open_ledger
from flows.models.registry import resolve
from flows.planning.candidates import cloud_cover
from flows.planning.mosaics import Region, of_period, plan_period, region_of
from flows.planning.periods import Period, periods_of
from flows.planning.search import find_scenes, source_of
from flows.planning.workunit import ModelRef, Plan, WorkUnit, make_plan
from flows.processing.mosaic_catalog import known_radiometry, mosaics_of, region_id, region_work_id
from flows.processing.publishing import catalog_of
from flows.progress import EventName, emit, report_progress
from flows.settings import RunSettings
from flows.settings.loading import load_settings, recent
from flows.settings.mosaic_options import MosaicOptions
from stac.catalog.product_collections import ProductCollection, broken_work, finished_work
from stac.catalog.validation import item_problems
from stac.catalog.versions import subject_of
from stac.errors import EmptySearch
from stac.io.s3 import Location, is_s3
from stac.search.source import Skipped


@unique
class Standing(StrEnum):
    """Where a scene stands."""

    #: Its product is published, made of the scenes and with the settings and the model of today.
    PUBLISHED = "published"
    #: Its product failed the quality gate and waits for a person to look at it.
    REVIEW = "review"
    #: A product is published, but other source dates, settings or models would be used today.
    OUTDATED = "outdated"
    #: A run is working on it.
    RUNNING = "running"
    #: Nothing is published and no run works on it.
    MISSING = "missing"
    #: The last attempt failed.
    FAILED = "failed"
    #: It cannot be used; the reason says why.
    INVALID = "invalid"
    #: Its product is published, but a file of it is missing or broken.
    BROKEN = "broken"
    #: Clearer or cloudier than what is wanted, or another version of the scene is used.
    LEFT_OUT = "left out"


#: With one of these, the interval is not complete; INVALID may be allowed by the settings.
INCOMPLETE = frozenset({Standing.MISSING, Standing.FAILED, Standing.BROKEN, Standing.INVALID})


@dataclass(frozen=True, slots=True)
class CensusRow:
    """Where one scene stands."""

    scene_id: str
    datetime: str
    standing: Standing
    work_id: str
    #: Path of the published item, empty without one.
    item_href: str
    attempts: int
    reason: str


@dataclass(frozen=True, slots=True)
class Census:
    """All scenes of an interval."""

    source: str
    collection: str
    datetime: str
    counts: dict[Standing, int]
    #: Nothing is missing, failed, broken or, unless the settings allow it, invalid.
    complete: bool
    scenes: tuple[CensusRow, ...]
    #: What the rows are: scenes, or mosaics of cells and regions.
    counted: str = "scenes"


#: Rows of the artifact; what is missing comes first.
_ROWS = 500
#: Scenes that the event names.
_NAMED = 20


@flow(name="census", log_prints=False, persist_result=False, retries=0)
def census(
    settings: RunSettings | None = None,
    last_days: int | None = None,
    verify: bool = False,
    strict: bool = True,
    mosaic: MosaicOptions | None = None,
) -> Census:
    """Compare what the source has with what the catalog has; keep the table, and raise what is missing.

    Args:
        settings: as in a `--config` file; the environment and defaults fill the rest.
        last_days: count the last days instead of `datetime` of the settings.
        verify: check every published file against its checksum, too.
        strict: fail when something is missing; otherwise only the event is emitted.
        mosaic: count the mosaics of this period, region and method instead of scenes.

    Raises:
        CensusIncomplete: scenes are missing, failed or broken.
        EmptySearch: the source has no scene in the area and interval.
    """
    wanted = recent(settings or load_settings(), last_days)
    found = mosaic_census(wanted, mosaic, verify=verify) if mosaic else take_census(wanted, verify=verify)
    create_table_artifact(table_of(found), key="census", description=f"Census of {found.datetime}")
    create_markdown_artifact(sentence_of(found), key="census-summary", description="What the census found")
    if not found.complete:
        missing = [row.scene_id for row in _open_rows(found)]
        emit(
            EventName.CENSUS_INCOMPLETE,
            f"collection.{found.collection}",
            {"datetime": found.datetime, "scenes": len(missing), "first": missing[:_NAMED]},
        )
        if strict:
            raise CensusIncomplete(sentence_of(found))
    return found


def take_census(settings: RunSettings, *, verify: bool = False) -> Census:
    """Compare what the source has with what the catalog has.

    Args:
        settings: as for a run.
        verify: check every file of the published products against its checksum.

    Raises:
        InvalidSettings: files of a remote catalog are to be verified.
        EmptySearch: the source has no scene in the area and interval.
        StacError, FlowError: source, catalog, registry or ledger cannot be read.
    """
    model = _ready(settings, verify)
    report_progress(f"searching {settings.shown_source}")
    items, searched = find_scenes(settings, source_of(settings))
    try:
        plan = make_plan(items, settings, model, searched.skipped)
    except EmptySearch:
        plan = Plan((), (), len(items))
    query = settings.query
    inside = [item for item in items if item.datetime is not None and query.contains(item.datetime)]
    rows = (*_rows(inside, plan, settings, verify), *map(_skipped, searched.skipped))
    return _counted(settings, settings.shown_dates, rows)


def mosaic_census(settings: RunSettings, options: MosaicOptions, *, verify: bool = False) -> Census:
    """Compare the cells of a region in every period with the mosaics that the catalog has.

    Args:
        settings: as for a run.
        options: period, region and method.
        verify: check every file of the published mosaics against its checksum.

    Raises:
        InvalidSettings: files of a remote catalog are to be verified.
        EmptySearch: no period has any scene.
        StacError, FlowError: source, catalog, registry or ledger cannot be read.
    """
    model, region = _ready(settings, verify), region_of(settings, options)
    periods = periods_of(options.period, settings.dates, options.last)
    catalog = mosaics_of(settings)
    published = catalog.published_work(survey=catalog.repair())
    rows: list[CensusRow] = []
    for number, period in enumerate(periods):
        report_progress(f"comparing {period.name}", number, len(periods))
        rows += _period_rows(of_period(settings, region, period), options, region, period, model, published, verify)
    if not rows:
        raise EmptySearch(f"No scene of {periods[0].first}/{periods[-1].last} covers the region {region.name}.")
    return _counted(settings, f"{periods[0].first}/{periods[-1].last}", tuple(rows), "mosaics")


def _ready(settings: RunSettings, verify: bool) -> ModelRef:
    """Return the model of today; files can be verified only on disk."""
    if verify and is_s3(str(settings.out)):
        raise InvalidSettings(f"--verify reads files of a catalog on disk; {settings.out} is not one. Leave it out.")
    report_progress("resolving the model")
    return resolve(settings)


def _counted(settings: RunSettings, dates: str, rows: tuple[CensusRow, ...], counted: str = "scenes") -> Census:
    counts = Counter(row.standing for row in rows)
    allowed = {Standing.INVALID} if settings.allow_invalid else set()
    complete = not any(counts[standing] for standing in INCOMPLETE - allowed)
    tally = {standing: counts[standing] for standing in Standing}
    return Census(settings.shown_source, settings.collection, dates, tally, complete, rows, counted)


def _period_rows(
    settings: RunSettings,
    options: MosaicOptions,
    region: Region,
    period: Period,
    model: ModelRef,
    published: Mapping[str, Location],
    verify: bool,
) -> Iterator[CensusRow]:
    """Yield a row for every cell of a period, and one for the region; nothing for a period without scenes."""
    start = period.start.strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        items, searched = find_scenes(settings, source_of(settings))
        known = known_radiometry(settings, region.name, period.name, start, options.method)
        plan = plan_period(items, settings, options, region, period, model, known)
    except EmptySearch:
        return
    yield from map(_skipped, searched.skipped)
    yield from (CensusRow(e.target_id, start, Standing.INVALID, "", "", 0, e.reason) for e in plan.refused)
    works = [(unit.target_id, unit.work_id, unit.item_id) for unit in plan.units]
    whole = region_id(plan, options.method), region_work_id(plan)
    works.append((*whole, f"{whole[0]}-unveil-{whole[1][:8]}"))
    mine = {work_id: published[work_id] for _, work_id, _ in works if work_id in published}
    broken = broken_work(mosaics_of(settings), mine)
    by_subject = {subject_of(place.stem): str(place) for place in published.values()}
    entries = _known(settings, [work_id for _, work_id, _ in works])
    for name, work_id, item_id in works:
        href, entry = str(mine.get(work_id, "")), entries.get(work_id)
        standing, reason = _standing(href, by_subject.get(subject_of(item_id), ""), entry)
        findings = [broken[work_id]] if work_id in broken else item_problems(Path(href)) if verify and href else []
        if findings:
            standing, reason = Standing.BROKEN, findings[0]
        yield CensusRow(name, start, standing, work_id, href, entry.attempts if entry else 0, reason)


def _rows(items: list[pystac.Item], plan: Plan, settings: RunSettings, verify: bool) -> Iterator[CensusRow]:
    units: dict[str, list[WorkUnit]] = defaultdict(list)
    for unit in plan.units:
        for name in unit.dates[0]:
            units[name].append(unit)
    refused = {name: each.reason for each in plan.refused for name in (each.target_id, *each.item_ids)}
    catalog = catalog_of(settings)
    published = finished_work(catalog, settings.gate_limits)
    broken = broken_work(catalog, {u.work_id: published[u.work_id] for u in plan.units if u.work_id in published})
    by_subject = {subject_of(place.stem): str(place) for place in published.values()}
    known = _known(settings, [unit.work_id for unit in plan.units])
    for number, item in enumerate(sorted(items, key=lambda i: (str(i.datetime), i.id))):
        report_progress("comparing", number, len(items))
        when = item.datetime.isoformat() if item.datetime else ""
        if item.id not in units:
            standing = Standing.INVALID if item.id in refused else Standing.LEFT_OUT
            reason = refused.get(item.id, f"{cloud_cover(item):.0f} % cloud")
            yield CensusRow(item.id, when, standing, "", "", 0, reason)
            continue
        for unit in units[item.id]:
            href, older = str(published.get(unit.work_id, "")), by_subject.get(subject_of(unit.item_id), "")
            entry = known.get(unit.work_id)
            standing, reason = _standing(href, older, entry)
            findings = [broken[unit.work_id]] if unit.work_id in broken else []
            if verify and href and not findings:
                findings = item_problems(Path(href))
            if findings:
                standing, reason = Standing.BROKEN, findings[0]
            tried = entry.attempts if entry else 0
            yield CensusRow(item.id, when, standing, unit.work_id, href or older, tried, reason)


def _skipped(each: Skipped) -> CensusRow:
    """Return the row of an item that the search passed over."""
    standing = Standing.LEFT_OUT if each.superseded_by else Standing.INVALID
    return CensusRow(each.item_id, "", standing, "", "", 0, each.reason)


def _standing(href: str, older: str, entry: Entry | None) -> tuple[Standing, str]:
    if href:
        waits = PurePosixPath(href).parents[1].name == ProductCollection.REVIEW
        return (Standing.REVIEW, "failed the quality gate") if waits else (Standing.PUBLISHED, "")
    if entry is not None and entry.held and not is_dead(entry.run_id):
        return Standing.RUNNING, f"run {entry.run_id}"
    if entry is not None and entry.state in (State.FAILED, State.INVALID):
        return Standing(entry.state.lower()), entry.error
    if older:
        return Standing.OUTDATED, "made from other scenes, settings or model"
    if entry is None:
        return Standing.MISSING, "never tried"
    return Standing.MISSING, entry.error or f"{entry.state} by run {entry.run_id}, which has ended"


def _known(settings: RunSettings, work_ids: list[str]) -> Mapping[str, Entry]:
    ledger = open_ledger(settings)
    try:
        return ledger.listing.of(work_ids)
    finally:
        ledger.close()


def table_of(found: Census) -> list[dict[str, Any]]:
    """Return the rows of the artifact: what is missing, failed or broken first, then by date."""
    rows = sorted(found.scenes, key=lambda row: (row.standing not in INCOMPLETE, row.datetime, row.scene_id))
    return [asdict(row) for row in rows[:_ROWS]]


def sentence_of(found: Census) -> str:
    """Return what was found as one or two sentences for people."""
    counts = ", ".join(f"{number} {standing}" for standing, number in found.counts.items() if number)
    counted = f"Of {len(found.scenes)} {found.counted} of {found.collection} in {found.datetime}: {counts or 'none'}."
    if found.complete:
        return counted
    first = next(iter(_open_rows(found)))
    remedy = "`unveil redrive` tries again" if found.counted == "scenes" else "`unveil mosaic` makes it"
    return f"{counted} The first, {first.scene_id}, is {first.standing}: {first.reason}; {remedy}."


def _open_rows(found: Census) -> list[CensusRow]:
    return [row for row in found.scenes if row.standing in INCOMPLETE]
