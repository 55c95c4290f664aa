"""Running the main flow from a command: plan first, start a server only when there is work."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flows.clear_scenes import RunSummary, clear_scenes, resolve
from flows.ledger import Ledger
from flows.progress import tell
from flows.scenes import find_scenes, source_of
from flows.services.prefect_server import prefect_api
from flows.settings import RunSettings
from flows.work import Plan, make_plan
from stac.publish import StaticCatalog, require_writable
from stac.shelves import finished_work


def preview(settings: RunSettings) -> tuple[Plan, dict[str, str], RunSummary]:
    """Return the plan, the published work by id, and the summary of a run that has nothing to do."""
    began = time.monotonic()
    settings.query  # noqa: B018 - a wrong area or interval is told before anything is started
    tell("resolving the model")
    model = resolve(settings)
    with source_of(settings) as location:
        tell(f"searching {settings.source}")
        items, _ = find_scenes(settings, location)
    plan = make_plan(items, settings, model)
    catalog = StaticCatalog(settings.out)
    finished = finished_work(settings.out, settings.gate_limits)
    done = {work_id: str(path) for work_id, path in finished.items()}
    summary = RunSummary(
        run_id="",
        source=settings.source,
        collection=settings.collection,
        datetime=settings.datetime,
        scenes=plan.scenes,
        model=model,
        catalog=str(catalog.catalog_path),
        units=(),
        already_done=tuple(unit.item_id for unit in plan.units if unit.work_id in done),
        seconds=time.monotonic() - began,
    )
    return plan, done, summary


def run_clear_scenes(settings: RunSettings) -> RunSummary:
    """Run the main flow against the configured Prefect server, or a local one for as long as it takes.

    When every unit is published already, no server is started.

    Raises:
        StacError, DeModelError, FlowError: the run could not start, or nothing of it succeeded.
    """
    StaticCatalog(settings.out).repair()
    plan, done, summary = preview(settings)
    if plan.units and not plan.refused and all(unit.work_id in done for unit in plan.units):
        return summary
    require_writable(settings.out)
    with prefect_api(settings.state, log=tell):
        result: RunSummary = clear_scenes(settings.model_dump(mode="json"))
    return result


def plan_rows(settings: RunSettings) -> list[dict[str, Any]]:
    """Return what a run would do: one row per scene, new, done or invalid."""
    plan, done, _ = preview(settings)
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
    return rows + [{"state": "invalid", "target_id": r.target_id, "reason": r.reason} | empty for r in plan.refused]


def ledger_rows(settings: RunSettings) -> list[Mapping[str, Any]]:
    """Return the ledger's lines; none when nothing has run yet."""
    path = settings.state / "ledger.db"
    return [asdict(entry) for entry in Ledger(path).entries()] if path.is_file() else []
