"""What a run works on: searched, resolved and planned once, and compared with what is published."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pystac
from prefect import task

from flows.models.model_item import ensure_model_item
from flows.models.registry import look_up, resolve
from flows.planning.candidates import Cause
from flows.planning.plan_file import FrozenPlan, freeze, revive, write_plan
from flows.planning.search import find_scenes
from flows.planning.workunit import ModelRef, Plan, WorkUnit, make_plan
from flows.processing.publishing import catalog_of, indexes_of
from flows.progress import report_progress
from flows.running.tasks import RETRIES
from flows.settings import RunSettings
from stac.catalog.product_collections import broken_work, finished_work, repair_collections
from stac.catalog.publish import StaticCatalog
from stac.io.s3 import Location
from stac.search.source import Skipped

_log = logging.getLogger("unveil")
#: What a command has prepared for the flow that it calls.
_HANDED: ContextVar[Any] = ContextVar("unveil_prepared", default=None)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found."""

    items: Sequence[pystac.Item]
    skipped: Sequence[Skipped]
    #: JSON of the source's collection.
    collection: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """What a run works on."""

    settings: RunSettings
    found: SearchResult
    model: ModelRef
    plan: Plan
    #: Published units of the plan by work id, and what is wrong with those that have to be made again.
    done: Mapping[str, Location]
    broken: Mapping[str, str]

    @property
    def todo(self) -> list[WorkUnit]:
        """Units that are not published, or broken."""
        return [unit for unit in self.plan.units if unit.work_id not in self.done]

    @property
    def request(self) -> str:
        """Settings and model as one JSON document, for the ledger."""
        return freeze((), self.settings, self.model).request


def find(settings: RunSettings) -> SearchResult:
    """Search the source."""
    report_progress(f"searching {settings.shown_source}")
    items, source = find_scenes(settings)
    return SearchResult(items, source.skipped, source.collection(settings.collection))


def resolve_model(settings: RunSettings) -> ModelRef:
    """Resolve the model's alias once and fetch its weights."""
    report_progress(f"resolving {settings.model}")
    return resolve(settings)


def prepare_run(settings: RunSettings, frozen: FrozenPlan | None = None, *, looking: bool = False) -> PreparedRun:
    """Search, resolve the model, and plan; put right what crashes left in the catalog and in indexes that follow it.

    Args:
        settings: of the run.
        frozen: a plan whose units are made, and no other.
        looking: nothing is repaired, and no registry is made where there is none.
    """
    _ = settings.query  # a wrong area or interval is reported before anything is asked
    catalog = catalog_of(settings)
    published = finished_work(catalog, settings.gate_limits) if looking else _repaired(settings)
    model = look_up(settings) if looking else resolve_model(settings)
    found = find(settings)
    if frozen is not None:
        work = revive(frozen, found.items, settings, model)
    else:
        work = make_plan(found.items, settings, model, found.skipped)
    for each in work.left_out:
        if each.cause is not Cause.CLOUD:
            _log.warning("left out: %s", each.reason)
    done, broken = whole_work(catalog, published, [unit.work_id for unit in work.units])
    if done and not looking:
        ensure_model_item(catalog, model)  # what is done links to it
    return PreparedRun(settings, found, model, work, done, broken)


@task(name="plan", **RETRIES)
def plan(settings: RunSettings, frozen: FrozenPlan | None = None) -> PreparedRun:
    """Prepare a run; what its command has prepared is not prepared twice."""
    ready: PreparedRun = handed_over() or prepare_run(settings, frozen)
    return ready


def _repaired(settings: RunSettings) -> Mapping[str, Location]:
    """Put right what crashes left in the catalog and in indexes; return the places of published work by id."""
    published = repair_collections(catalog_of(settings), settings.gate_limits)
    with indexes_of(settings) as indexes:
        indexes.reconcile(progress=report_progress)
    return published


@contextmanager
def handing_over(prepared: object) -> Iterator[None]:
    """Let the flow that is called in this context take what its command has prepared."""
    handed = _HANDED.set(prepared)
    try:
        yield
    finally:
        _HANDED.reset(handed)


def handed_over() -> Any:
    """Return what the command of this flow has prepared; None for a flow that none called."""
    return _HANDED.get()


def whole_work(
    catalog: StaticCatalog, published: Mapping[str, Location], work_ids: Iterable[str]
) -> tuple[dict[str, Location], dict[str, str]]:
    """Return the places of the work that is published whole, and what is wrong with the rest of it, by work id."""
    mine = {work_id: published[work_id] for work_id in work_ids if work_id in published}
    broken = broken_work(catalog, mine)
    for reason in broken.values():
        _log.warning("a published product is broken and made again: %s", reason)
    return {work_id: place for work_id, place in mine.items() if work_id not in broken}, broken


def plan_rows(settings: RunSettings, freeze_to: Path | None = None) -> list[dict[str, Any]]:
    """Return what a run would do, one row for each scene: new, done, failed, invalid or left out."""
    if freeze_to is not None:
        resolve(settings)  # a frozen plan names a version of the registry
    ready = prepare_run(settings, looking=True)
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
            "sources": len(unit.source_ids),
            "megapixels": round(unit.pixels / 1e6, 2),
            "reason": ready.broken.get(unit.work_id, ""),
        }
        for unit in ready.plan.units
    ]
    others = [("failed" if each.failed else "invalid", each.target_id, each.reason) for each in ready.plan.refused]
    others += [("left out", each.target_id, each.reason) for each in ready.plan.left_out]
    empty = {"work_id": "", "item_id": "", "cell_id": "", "cloud_cover": "", "sources": "", "megapixels": ""}
    return rows + [{"state": state, "target_id": name, "reason": reason} | empty for state, name, reason in others]
