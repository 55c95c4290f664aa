"""The flow `census`: what a search finds against what is published; nothing may be missing unseen.

Of scenes every product is counted, of mosaics every cell of every period and the item of the whole region.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum, unique
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pystac
from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State as FlowState
from prefect.states import Completed

from flows.errors import CensusIncomplete, InvalidSettings
from flows.ledger.schema import Entry, State, is_dead
from flows.ledger.store import existing_ledger
from flows.models.registry import look_up
from flows.planning.candidates import Refused, cloud_cover
from flows.planning.mosaics import MosaicJob, NothingUsable, mosaic_jobs, plan_period
from flows.planning.search import find_scenes
from flows.planning.workunit import ModelRef, Plan, WorkUnit, make_plan, unit_cell
from flows.processing.publishing import catalog_of, known_radiometry, mosaics_of, require_catalog
from flows.progress import EventName, emit, report_progress
from flows.settings import RunSettings
from flows.settings.loading import load_settings, recent
from flows.settings.mosaic_options import MosaicOptions
from stac.catalog.product_collections import ProductCollection, broken_work, finished_work
from stac.catalog.publish import StaticCatalog
from stac.catalog.validation import item_problems
from stac.catalog.versions import ground_of, subject_of
from stac.errors import EmptySearch, InvalidProduct
from stac.io.s3 import Location, is_s3
from stac.product.item import ground_fields
from stac.search.source import Skipped

#: Rows of the artifact; what is missing comes first.
_ROWS = 500
#: Scenes that the event names.
_NAMED = 20


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

    @property
    def outdated(self) -> int:
        """Products that the next run makes again."""
        return self.counts[Standing.OUTDATED]


@flow(name="census", log_prints=False, persist_result=False, retries=0)
def census(
    settings: RunSettings | None = None,
    last_days: int | None = None,
    verify: bool = False,
    strict: bool = True,
    mosaic: MosaicOptions | None = None,
    before_first_run: bool = False,
) -> Census | FlowState[Census]:
    """Compare what the source has with what the catalog has; keep the table, and raise what is missing.

    Args:
        settings: as in a `--config` file; the environment and defaults fill the rest.
        last_days: count the last days instead of `datetime` of the settings.
        verify: check every published file against its checksum, too.
        strict: fail when something is missing; otherwise only the event is emitted.
        mosaic: count the mosaics of this period, region and method instead of scenes.
        before_first_run: complete without a count where no run has begun yet, as a schedule wants; otherwise a catalog
            that is not there is a mistyped one.

    Raises:
        InvalidSettings: there is no catalog.
        CensusIncomplete: scenes are missing, failed or broken.
        EmptySearch: the source has no scene in the area and interval.
    """
    wanted = recent(settings or load_settings(), last_days)
    if before_first_run and not _has_begun(wanted):
        nothing = Census(
            wanted.shown_source, wanted.collection, wanted.shown_dates, dict.fromkeys(Standing, 0), True, ()
        )
        return Completed(message=f"Nothing is there yet: no run has begun with {wanted.out}.", data=nothing)
    found = take_census(wanted, mosaic, verify=verify)
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


def _has_begun(settings: RunSettings) -> bool:
    """Return whether any run has worked on a catalog; `unveil up` serves an empty one before the first."""
    if catalog_of(settings).target.collection_ids():
        return True
    ledger = existing_ledger(settings)
    if ledger is None:
        return False
    with closing(ledger):
        return any(ledger.counts().values())


def take_census(settings: RunSettings, mosaic: MosaicOptions | None = None, *, verify: bool = False) -> Census:
    """Compare what the source has with what the catalog has.

    Args:
        settings: as for a run.
        mosaic: count cells and regions of every period instead of scenes.
        verify: check every file of what is published against its checksum.

    Raises:
        InvalidSettings: there is no catalog, or files of a remote one are to be verified.
        EmptySearch: the source has no scene in the area and interval.
        StacError, FlowError: source, catalog, registry or ledger cannot be read.
    """
    if verify and is_s3(str(settings.out)):
        raise InvalidSettings(f"--verify reads files of a catalog on disk; {settings.out} is not one. Leave it out.")
    require_catalog(settings)
    report_progress("resolving the model")
    model = look_up(settings)
    if mosaic is None:
        dates, rows, counted = settings.shown_dates, _scenes(settings, model, verify), "scenes"
    else:
        jobs = mosaic_jobs(settings, mosaic)
        dates = f"{jobs[0].period.first}/{jobs[-1].period.last}"
        rows, counted = _mosaics(settings, jobs, model, verify), "mosaics"
        if not rows:
            raise EmptySearch(f"No scene of {dates} covers the region {jobs[0].region.name}.")
    counts = Counter(row.standing for row in rows)
    allowed = {Standing.INVALID} if settings.allow_invalid else set()
    complete = not any(counts[standing] for standing in INCOMPLETE - allowed)
    tally = {standing: counts[standing] for standing in Standing}
    return Census(settings.shown_source, settings.collection, dates, tally, complete, tuple(rows), counted)


@dataclass(frozen=True, slots=True)
class _Work:
    """What a row stands for."""

    name: str
    datetime: str
    work_id: str
    item_id: str
    #: Returns what `ground_of` says of its cell; empty where the id of the cell says it.
    ground: Callable[[], str] = str


def _scenes(settings: RunSettings, model: ModelRef, verify: bool) -> list[CensusRow]:
    """Return a row for every unit of every scene, and for each scene without any."""
    report_progress(f"searching {settings.shown_source}")
    items, searched = find_scenes(settings)
    try:
        plan = make_plan(items, settings, model, searched.skipped)
    except EmptySearch:
        plan = Plan((), (), len(items))
    query = settings.query
    inside = {item.id: item for item in items if item.datetime is not None and query.contains(item.datetime)}
    when = {name: item.datetime.isoformat() for name, item in inside.items() if item.datetime}
    # A scene of a date may lie just outside of the interval.
    targets = [(name, unit) for unit in plan.units for name in unit.dates[0] if name in when]
    every = {item.id: item for item in items}
    works = [
        _Work(name, when[name], unit.work_id, unit.item_id, partial(_ground, unit, every, settings))
        for name, unit in targets
    ]
    refused = {name: each for each in plan.refused for name in (each.target_id, *each.item_ids)}
    rows = []
    for name in inside.keys() - {work.name for work in works}:
        if name in refused:
            rows.append(_refused(refused[name], name, when[name]))
        else:
            reason = f"{cloud_cover(inside[name]):.0f} % cloud"
            rows.append(CensusRow(name, when[name], Standing.LEFT_OUT, "", "", 0, reason))
    catalog = catalog_of(settings)
    rows += _rows(works, catalog, finished_work(catalog, settings.gate_limits), settings, verify)
    rows.sort(key=lambda row: (row.datetime, row.scene_id))
    return [*rows, *map(_skipped, searched.skipped)]


def _mosaics(settings: RunSettings, jobs: list[MosaicJob], model: ModelRef, verify: bool) -> list[CensusRow]:
    """Return a row for every cell of every period, and one for each region; none for a period without scenes."""
    catalog = mosaics_of(settings)
    published = catalog.published_work(survey=catalog.repair())
    rows: list[CensusRow] = []
    passed_over: dict[Skipped, None] = {}  # a search may pass the same item over in every period
    for number, job in enumerate(jobs):
        report_progress(f"comparing {job.period.name}", number, len(jobs))
        try:
            items, searched = find_scenes(job.settings)
            passed_over |= dict.fromkeys(searched.skipped)
            plan = plan_period(job, items, model, known_radiometry(job))
        except NothingUsable as error:
            rows += (_refused(each, each.target_id, job.start) for each in error.refused)
            continue
        except EmptySearch:
            continue
        works = [_Work(unit.target_id, job.start, unit.work_id, unit.item_id) for unit in plan.units]
        works.append(_Work(f"{job.name}-region", job.start, plan.region_work_id, plan.region_item_id))
        rows += (_refused(each, each.target_id, job.start) for each in plan.refused)
        rows += _rows(works, catalog, published, settings, verify)
    return [*rows, *map(_skipped, passed_over)]


def _rows(
    works: list[_Work],
    catalog: StaticCatalog,
    published: Mapping[str, Location],
    settings: RunSettings,
    verify: bool,
) -> Iterator[CensusRow]:
    """Yield the row of every work."""
    mine = {work.work_id: published[work.work_id] for work in works if work.work_id in published}
    broken = broken_work(catalog, mine)
    by_subject: dict[str, list[Location]] = {}
    for place in published.values():
        by_subject.setdefault(subject_of(place.stem), []).append(place)
    known: Mapping[str, Entry] = {}
    if (ledger := existing_ledger(settings)) is not None:
        with closing(ledger):
            known = ledger.of([work.work_id for work in works])
    for number, work in enumerate(works):
        report_progress("comparing", number, len(works))
        href = str(mine.get(work.work_id, ""))
        older = "" if href else _older(work, by_subject.get(subject_of(work.item_id), []), catalog)
        entry = known.get(work.work_id)
        standing, reason = _standing(href, older, entry)
        findings = [broken[work.work_id]] if work.work_id in broken else []
        if verify and href and not findings:
            findings = item_problems(Path(href))
        if findings:
            standing, reason = Standing.BROKEN, findings[0]
        tried = entry.attempts if entry else 0
        yield CensusRow(work.name, work.datetime, standing, work.work_id, href or older, tried, reason)


def _ground(unit: WorkUnit, items: Mapping[str, pystac.Item], settings: RunSettings) -> str:
    return ground_of(ground_fields(unit_cell(unit, items, settings).geobox))


def _older(work: _Work, places: list[Location], catalog: StaticCatalog) -> str:
    """Return the place of a product of the same scene and ground; empty where all are of other areas of the scene."""
    ground = work.ground() if places else ""
    for place in places:
        if not ground:
            return str(place)
        with suppress(InvalidProduct):  # a damaged one is made again by the run that needs it
            document = catalog.beside(place.parent.parent.name).document(place.stem)
            if document is not None and ground_of(document["properties"]) == ground:
                return str(place)
    return ""


def _refused(each: Refused, name: str, when: str) -> CensusRow:
    """Return the row of a scene or cell that no unit could be made for."""
    return CensusRow(name, when, Standing.FAILED if each.failed else Standing.INVALID, "", "", 0, each.reason)


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
    if entry.state is State.SUCCEEDED:
        return Standing.MISSING, "was published, and was taken out of the catalog or lost"
    return Standing.MISSING, entry.error or f"{entry.state} by run {entry.run_id}, which has ended"


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
    remedy = _remedy(first) if found.counted == "scenes" else "`unveil mosaic` makes it"
    return f"{counted} The first, {first.scene_id}, is {first.standing}: {first.reason}; {remedy}."


def _remedy(row: CensusRow) -> str:
    """Return what helps a scene: a redrive takes what failed from the ledger, and knows nothing of the rest."""
    if row.attempts and row.standing in (Standing.FAILED, Standing.INVALID):
        return f"`unveil redrive{' --include-invalid' if row.standing is Standing.INVALID else ''}` tries again"
    return "`unveil run` makes it"


def _open_rows(found: Census) -> list[CensusRow]:
    return [row for row in found.scenes if row.standing in INCOMPLETE]
