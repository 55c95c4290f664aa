"""Running the main flow from a command: plan first, start a server only when there is work."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from flows.catalogs import catalog_of, indexes_of
from flows.clear_scenes import RunSummary, clear_scenes, published_work
from flows.frozen_plan import FrozenPlan, freeze, read_plan, revive, write_plan
from flows.ledger.opening import open_ledger
from flows.models.resolving import resolve
from flows.progress import tell
from flows.scenes import find_scenes, source_of
from flows.services.prefect_server import prefect_api
from flows.settings import RunSettings
from flows.unit import discard_blocks
from flows.work import ModelRef, Plan, make_plan
from flows.working import settle
from stac.access.locations import Location, parse_location
from stac.shelves import repair_shelves


def preview(
    settings: RunSettings, frozen: FrozenPlan | None = None, finished: Mapping[str, Location] | None = None
) -> tuple[Plan, dict[str, str], RunSummary]:
    """Return the plan, the published work by id, and the summary of a run that has nothing to do.

    Args:
        settings: of the run.
        frozen: a plan that is taken over.
        finished: published work by id, from `repair_shelves`; read from the catalog when left out.
    """
    began = time.monotonic()
    settings.query  # noqa: B018 - a wrong area or interval is told before anything is started
    tell("resolving the model")
    model = resolve(settings)
    tell(f"searching {settings.shown_source}")
    items, source = find_scenes(settings, source_of(settings))
    if frozen is None:
        plan = make_plan(items, settings, model, source.skipped)
    else:
        plan = revive(frozen, items, settings, model)
    catalog = catalog_of(settings)
    whole, _ = published_work(catalog, plan, settings, finished)
    done = {work_id: str(path) for work_id, path in whole.items()}
    summary = RunSummary(
        run_id="",
        source=settings.shown_source,
        collection=settings.collection,
        datetime=settings.datetime,
        scenes=plan.scenes,
        model=model,
        catalog=str(catalog.catalog_path),
        units=(),
        already_done=tuple(unit.item_id for unit in plan.units if unit.work_id in done),
        seconds=time.monotonic() - began,
        left_out=plan.left_out,
    )
    return plan, done, summary


def run_clear_scenes(settings: RunSettings, plan_file: Path | None = None, *, invalid_too: bool = False) -> RunSummary:
    """Run the main flow against the configured Prefect server, or a local one for as long as it takes.

    When every unit is published already, no server is started.

    Args:
        settings: of the run; those of the plan where one is given (`settings_of`).
        plan_file: a frozen plan whose units are made, and no other.
        invalid_too: try units again that were found INVALID before.

    Raises:
        InvalidPlan: the plan cannot be executed.
        StacError, DeModelError, FlowError: the run could not start, or nothing of it succeeded.
    """
    catalog = catalog_of(settings)
    finished = repair_shelves(catalog, settings.gate_limits)
    plan, done, summary = preview(settings, None if plan_file is None else read_plan(plan_file), finished)
    if plan.units and not plan.refused and all(unit.work_id in done for unit in plan.units):
        _settle(settings, plan, done, summary.model)
        with indexes_of(settings) as indexes:
            indexes.reconcile(tell=tell)
        return summary
    catalog.require_writable()
    with prefect_api(settings.state, log=tell):
        place = None if plan_file is None else str(plan_file.resolve())
        result: RunSummary = clear_scenes(settings.shareable, place, invalid_too)
    return result


def _settle(settings: RunSettings, plan: Plan, done: Mapping[str, str], model: ModelRef) -> None:
    with closing(open_ledger(settings)) as ledger:
        request_id = ledger.remember(freeze((), settings, model).request)
        settle(ledger, plan.units, {work_id: parse_location(path) for work_id, path in done.items()}, request_id)
    discard_blocks([unit.work_id for unit in plan.units], settings)


def plan_rows(settings: RunSettings, freeze_to: Path | None = None) -> list[dict[str, Any]]:
    """Return what a run would do, one row for each scene: new, done, invalid or left out.

    Args:
        settings: of the run.
        freeze_to: file that the plan is frozen into.
    """
    plan, done, summary = preview(settings)
    if freeze_to is not None:
        write_plan(freeze_to, freeze(plan.units, settings, summary.model))
    rows: list[dict[str, Any]] = [
        {
            "state": "done" if unit.work_id in done else "new",
            "target_id": unit.target_id,
            "work_id": unit.work_id,
            "item_id": unit.item_id,
            "cell_id": unit.cell_id,
            "cloud_cover": unit.cloud_cover,
            "donors": len(unit.donor_ids),
            "megapixels": round(unit.pixels / 1e6, 2),
            "reason": "",
        }
        for unit in plan.units
    ]
    empty = {"work_id": "", "item_id": "", "cell_id": "", "cloud_cover": "", "donors": "", "megapixels": ""}
    rows += [{"state": "invalid", "target_id": r.target_id, "reason": r.reason} | empty for r in plan.refused]
    return rows + [{"state": "left out", "target_id": r.target_id, "reason": r.reason} | empty for r in plan.left_out]
