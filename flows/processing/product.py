"""Make one product: read, restore, assess, write, describe."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import torch

from de_model.calibration import calibration_of
from de_model.validation import Filler, PixelKind, fillers_of, validation_of
from flows import __version__
from flows.drift.units import unit_drift
from flows.ledger.spent import Stopwatch, add_unit
from flows.planning.workunit import ModelRef, Unit, WorkUnit, unit_cell, unit_dates
from flows.processing.blocks import Effort, Progress, WriteBehind, no_progress, restore_cell
from flows.processing.model import load_model, without_a_lost_gpu
from flows.processing.publishing import blocks_folder, catalog_of, indexes_of
from flows.processing.registration import register_dates
from flows.processing.restore import intervals_of, prepare
from flows.reports.page import write_report
from flows.settings import GapFilling, RunSettings
from flows.settings.fields import RestorationOptions
from stac.catalog.product_collections import (
    GATE,
    GATE_LIMITS,
    GATE_REASONS,
    GateState,
    ProductCollection,
    places_of_versions,
    publish_to_collection,
)
from stac.catalog.publish import StaticCatalog
from stac.composite.normalisation import NormalisationFit
from stac.grid.cell import Cell
from stac.io.files import write_json
from stac.io.s3 import Location
from stac.load.dataset import radiometry_of
from stac.load.stack import Stack, read_stack
from stac.product.item import ProductRecord, build_item, credit
from stac.product.layers import Provenance
from stac.product.model_item import model_item_href
from stac.product.writer import BlockStore, ProductSummary, ProductWriter
from stac.quality.assess import assess
from stac.quality.figures import QualityFigures
from stac.quality.gate import Gate, Verdict, gate_document, judge
from stac.search.acquisitions import Acquisition

#: How the note of a unit begins whose product failed the gate.
NEEDS_REVIEW = "needs review"


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured on a product, and what the gate said."""

    figures: QualityFigures
    #: Against the limits of the gate, or the defaults where it is off.
    verdict: Verdict
    #: None where the gate is off.
    gate: Gate | None

    @property
    def state(self) -> GateState:
        """What the gate said."""
        if self.gate is None:
            return GateState.OFF
        return GateState.PASSED if self.verdict.passed else GateState.FAILED

    @property
    def document(self) -> dict[str, Any]:
        """All of it as JSON values, for `metadata.json` and the report."""
        verdict = self.verdict.document() | {"state": self.state.value}
        return {"figures": self.figures.document(), "gate": verdict}

    def mark(self, item: pystac.Item) -> None:
        """Write figures and verdict into an item's properties."""
        numbers = {check.name: round(check.value, 6) for check in self.verdict.checks if check.value is not None}
        item.properties["unveil:quality"] = {**item.properties.get("unveil:quality", {}), **numbers}
        item.properties[GATE] = self.state.value
        if self.gate is not None:
            item.properties[GATE_LIMITS] = gate_document(self.gate)
        if self.state is GateState.FAILED:
            item.properties[GATE_REASONS] = list(self.verdict.reasons)


def quality_of(staging: Path, bands: Sequence[str], gate: Gate | None) -> Quality:
    """Measure and judge the product whose layers lie in a folder.

    Args:
        staging: the folder.
        bands: common names in the order of data.tif.
        gate: thresholds, None to let every product pass.

    Raises:
        InvalidProduct: a layer is missing or cannot be read.
    """
    figures = assess(staging, bands)
    return Quality(figures, judge(figures, gate or Gate()), gate)


def review_note(catalog: StaticCatalog, item_id: str) -> str:
    """Return why a published item waits for review, empty where it does not.

    Raises:
        InvalidProduct: the item cannot be read.
    """
    properties = (catalog.beside(ProductCollection.REVIEW).document(item_id) or {}).get("properties", {})
    if properties.get(GATE) != GateState.FAILED:
        return ""
    return f"{NEEDS_REVIEW}: {' '.join(properties.get(GATE_REASONS, []))}"


@dataclass(frozen=True, slots=True)
class UnitFigures:
    """What was done to one date."""

    #: Areas, square kilometres.
    valid_km2: float
    cloudy_km2: float
    other_dates_km2: float
    #: Hidden on every date and filled, by the model or, of these, from the ground around.
    model_km2: float
    interpolated_km2: float
    not_recoverable_km2: float
    #: Mean half-width of the 90 % interval over restored pixels, reflectance; 0 without any.
    mean_uncertainty: float
    #: Mean W over the pixels the model restored; 0 without any.
    mean_reference_weight: float
    #: Blocks made and model tiles run by this run; those of an interrupted one before are not counted.
    blocks: int
    tiles: int
    seconds: float


def make_product(
    unit: WorkUnit,
    items: Mapping[str, pystac.Item],
    settings: RunSettings,
    model: ModelRef,
    staging: Path,
    progress: Progress = no_progress,
) -> UnitFigures:
    """Restore one date and write all files of its product, its item included, into `staging`.

    Finished blocks are kept in the state folder until `discard_blocks`, so a run that was stopped goes on with them.

    Raises:
        InvalidInput: the target cannot be used.
        UnreadableAsset: the target's pixels cannot be read.
        DiskFull, NotWritable: the folder cannot be written.
        DeviceLost: the GPU no longer answers; tried again, the rest is made on the CPU.
    """
    began, stopwatch = time.monotonic(), Stopwatch()
    enhancer = load_model(model.weights, model.sha256, settings.device)
    settings = settings.fitted_to(model.scene)
    cell = unit_cell(unit, items, settings)
    store = _store(unit.work_id, cell, settings)
    overview = _overview(unit, items, cell, settings, store)
    by_id = {date.id: date for date in unit_dates(unit, items)}
    registered = register_dates([by_id[date_id] for date_id in overview.item_ids], overview, 0, cell, settings)
    used, overview = registered.dates, registered.overview
    options = options_of(settings, model)
    prepared = prepare(overview, 0, cell, options)
    prepared_after = time.monotonic() - began

    with ProductWriter(cell.geobox, settings.bands, staging) as product:
        with without_a_lost_gpu(), WriteBehind(product.add) as written:
            effort = restore_cell(
                registered.read, prepared, enhancer, options, store, settings.block, progress, written
            )
        restored = time.monotonic()
        summary = product.finish(overview.dn[0])
    figures = figures_of(summary, effort, time.monotonic() - began)
    timings = {
        "prepare": prepared_after,
        "read": effort.read_seconds,
        "waited": effort.waited_seconds,
        "restore": effort.restore_seconds,
        "model": effort.model_seconds,
        # Most of what can be written before the last pixel is there was written meanwhile.
        "write": written.waited + time.monotonic() - restored,
    }
    measured = time.monotonic()
    quality = quality_of(staging, settings.bands, settings.quality_gate)
    timings["quality"] = time.monotonic() - measured
    record = record_of(unit, settings, model, [item for date in used for item in date.items], figures, options.fillers)
    fits = prepared.composite.fits if prepared.composite else ()
    metadata = metadata_of(unit, settings, model, overview, used, fits, summary, figures, timings)
    metadata["shifts_px"] = registered.document
    metadata["fillers"] = {"kinds": dict(record.fillers), "pixels": summary.pixels_by_filler}
    metadata["quality"] = quality.document
    metadata["drift"] = unit_drift(overview, used[0].items, quality.figures, Path(model.weights))
    spent = stopwatch.spent(
        km2=figures.valid_km2,
        tiles=effort.tiles,
        model_seconds=effort.restore_seconds,
        on_gpu=next(enhancer.parameters()).is_cuda,
        staging=staging,
        price_per_hour=settings.price_per_hour,
    )
    add_unit(settings.state, spent)
    metadata["spent"] = spent.document
    write_json(staging / "metadata.json", metadata)
    write_report(staging, record.item_id, metadata)
    item = build_item(record, summary, staging)
    quality.mark(item)
    stage_item(item, staging)
    return figures


def options_of(settings: RunSettings, model: ModelRef) -> RestorationOptions:
    """Return how a run restores: with the factors of intervals and the fillers that its model was measured by."""
    weights = Path(model.weights)
    fillers = fillers_of(validation_of(weights)) if settings.gaps is GapFilling.VALIDATED else {}
    return replace(settings.restoration, intervals=intervals_of(calibration_of(weights)), fillers=fillers)


def _store(work_id: str, cell: Cell, settings: RunSettings) -> BlockStore:
    identity = f"{work_id} by {settings.block} px"
    return BlockStore(blocks_folder(work_id, settings), cell, settings.bands, identity)


def _overview(
    unit: WorkUnit, items: Mapping[str, pystac.Item], cell: Cell, settings: RunSettings, store: BlockStore
) -> Stack:
    """Return a thinned view of all dates, the target first; dates that cannot be read are left out for good."""
    every = unit_dates(unit, items)
    before = store.saved_record()
    if before is not None:
        known = [date for date in every if date.id in before["dates"]]
        found = read_stack(known, cell, settings.bands, settings.reading.overview_of(cell))
        return replace(found, dropped=tuple(before["dropped"]))
    found = read_stack(every, cell, settings.bands, settings.reading.overview_of(cell), required={unit.target_id})
    store.save_record({"dates": list(found.item_ids), "dropped": list(found.dropped)})
    return found


#: The item waits here until it is published under its own name.
ITEM_FILE = "staged-item.json"


def publish_product(staging: Path, settings: RunSettings, source_collection: Mapping[str, Any]) -> Location:
    """Publish a staged product, or lay it aside for review where it failed the gate; return the place of its item.

    Indexes follow when it is published: the next run repairs one that could not.

    Raises:
        IndexNotUpdated: it is published, but an index does not have it.
        PublishError: it could not be published; the catalog is as it was.
    """
    item, catalog = take_staged_item(staging, source_collection), catalog_of(settings)
    place = publish_to_collection(catalog, staging, item, source_collection)
    if settings.indexes:
        with indexes_of(settings) as indexes:
            for changed in places_of_versions(catalog, item):
                indexes.put(changed)
    return place


def stage_item(item: pystac.Item, staging: Path) -> None:
    """Write an item into the folder of its files, for `take_staged_item`."""
    write_json(staging / ITEM_FILE, item.to_dict(include_self_link=False, transform_hrefs=False))


def take_staged_item(staging: Path, source_collection: Mapping[str, Any]) -> pystac.Item:
    """Return the item that waits in a staging folder, credited to its sources; its file is gone."""
    item = pystac.Item.from_file(str(staging / ITEM_FILE))
    item.set_self_href(None)
    (staging / ITEM_FILE).unlink()
    credit(item, source_collection, __version__)
    return item


def figures_of(summary: ProductSummary, effort: Effort, seconds: float) -> UnitFigures:
    """Return the figures of a restored date."""
    area = {p: summary.areas_km2[p.name.lower()] for p in Provenance}
    model_classes = (Provenance.THIN_CLOUD_CORRECTED, Provenance.REFERENCE_FILLED, Provenance.GENERATED)
    valid = sum(area.values()) - area[Provenance.NODATA]
    return UnitFigures(
        valid_km2=valid,
        cloudy_km2=valid - area[Provenance.OBSERVED],
        other_dates_km2=area[Provenance.OTHER_DATES],
        model_km2=sum(area[p] for p in model_classes),
        interpolated_km2=summary.interpolated * summary.pixel_km2,
        not_recoverable_km2=area[Provenance.NOT_RECOVERABLE],
        mean_uncertainty=summary.mean_uncertainty,
        mean_reference_weight=summary.mean_reference_weight,
        blocks=effort.blocks,
        tiles=effort.tiles,
        seconds=seconds,
    )


def record_of(
    unit: Unit,
    settings: RunSettings,
    model: ModelRef,
    used: Sequence[pystac.Item],
    figures: UnitFigures,
    fillers: Mapping[PixelKind, Filler],
) -> ProductRecord:
    """Return what an item says of a product.

    Args:
        unit: that was made.
        settings: of the run, fitted to the model.
        model: that restored it.
        used: scenes, the first of them the target or the reference.
        figures: of the product.
        fillers: that each kind of pixel was filled by.
    """
    target, *others = used
    quality = {
        "mean_uncertainty": figures.mean_uncertainty,
        "mean_reference_weight": figures.mean_reference_weight,
    }
    return ProductRecord(
        item_id=unit.item_id,
        work_id=unit.work_id,
        target=_archived(target),
        source_dates=tuple(_archived(other) for other in others),
        cell_id=unit.cell_id,
        model_name=model.name,
        model_version=model.version,
        model_sha256=model.sha256,
        model_href=model_item_href(model.name, model.sha256),
        fillers={str(kind): str(filler) for kind, filler in fillers.items()},
        software={"torch": torch.__version__, "numpy": np.__version__},
        seed=settings.seed,
        parameters=settings.parameters,
        quality=quality,
        software_version=__version__,
        created=datetime.now(UTC),
    )


def _archived(item: pystac.Item) -> pystac.Item:
    """Return the item under its archive's address where it names one, not under that of a passing server."""
    canonical = item.get_single_link("canonical")
    if canonical is None:
        return item
    # Of a copy: the hrefs of the item's own assets would be taken for paths on the archive's server.
    archived = item.clone()
    archived.set_self_href(str(canonical.href))
    return archived


def metadata_of(
    unit: Unit,
    settings: RunSettings,
    model: ModelRef,
    overview: Stack,
    used: Sequence[Acquisition],
    fits: Sequence[NormalisationFit],
    summary: ProductSummary,
    figures: UnitFigures,
    timings: Mapping[str, float],
) -> dict[str, Any]:
    """Return everything that made a product, as JSON values.

    Args:
        unit: that was made.
        settings: of the run, fitted to the model.
        model: that restored it.
        overview: all dates that were used, thinned.
        used: the same dates.
        fits: how they were matched.
        summary: of the layers.
        figures: of the product.
        timings: seconds, by step.
    """
    return {
        "unit": {k: v for k, v in asdict(unit).items() if k != "composite"} | {"target_id": unit.target_id},
        "model": {name: getattr(model, name) for name in ("name", "version", "sha256", "calibration", "validation")},
        "parameters": settings.parameters,
        "software": {"unveil-eo": __version__, "torch": torch.__version__, "numpy": np.__version__},
        "sources": [
            {"id": scene.id, "date": str(np.datetime64(int(day), "D"))}
            | {"radiometry": radiometry_of(scene, settings.bands[0], settings.reading)}
            for date, day in zip(used, overview.days, strict=True)
            for scene in date.items
        ],
        "dropped": [*unit.left_out, *overview.dropped],
        "areas_km2": summary.areas_km2,
        "figures": asdict(figures),
        "normalisation": [asdict(fit) for fit in fits],
        "seconds": dict(timings),
    }
