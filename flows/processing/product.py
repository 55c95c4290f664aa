"""Make the product of a unit, a scene or a cell of a mosaic: read, restore, assess, write, describe. No Prefect."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pystac
import torch

from de_model.enhancer import Enhancer
from flows import __version__
from flows.drift.compare import unit_drift
from flows.ledger.spent import Stopwatch, add_unit
from flows.planning.workunit import ModelRef, MosaicUnit, Unit
from flows.processing.blocks import Effort, Look, Progress, WriteBehind, no_progress, restore_cell
from flows.processing.inputs import Inputs, inputs_of, seen_from_above
from flows.processing.model import load_model, without_a_lost_gpu
from flows.processing.publishing import stage_item
from flows.reports.page import write_report
from flows.settings import RunSettings
from stac.catalog.product_collections import GATE, GATE_LIMITS, GATE_REASONS, GateState
from stac.composite.period import clear_looks
from stac.grid.cell import Cell
from stac.io.files import write_json
from stac.load.dataset import radiometry_of
from stac.load.stack import Stack
from stac.product.block_store import Block
from stac.product.cog import CogWriter
from stac.product.item import ProductRecord, build_item
from stac.product.layers import ProductLayers, Provenance
from stac.product.model_item import model_item_href
from stac.product.mosaic_item import COUNT, COUNT_SPEC, CountTally, MosaicRecord, build_mosaic_item
from stac.product.writer import ProductSummary, ProductWriter
from stac.quality.assess import assess
from stac.quality.figures import QualityFigures
from stac.quality.gate import Gate, Verdict, judge

#: What pixels depend on beside Unveil.
_SOFTWARE = {"torch": torch.__version__, "numpy": np.__version__}


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
            item.properties[GATE_LIMITS] = asdict(self.gate)
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


class Made(NamedTuple):
    """What came of a unit."""

    figures: UnitFigures
    #: Why other dates of its plan are not used, one sentence each: they cannot be read, or lie too far off.
    left_out: tuple[str, ...] = ()


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


def record_of(inputs: Inputs, figures: UnitFigures) -> ProductRecord:
    """Return what an item says of a product."""
    unit, model, settings = inputs.unit, inputs.model, inputs.settings
    target, *others = map(_archived, inputs.scenes)
    return ProductRecord(
        item_id=unit.item_id,
        work_id=unit.work_id,
        target=target,
        source_dates=tuple(others),
        cell_id=unit.cell_id,
        model_name=model.name,
        model_version=model.version,
        model_sha256=model.sha256,
        model_href=model_item_href(model.name, model.sha256),
        fillers=_fillers(inputs),
        software=_SOFTWARE,
        seed=settings.seed,
        parameters={**settings.parameters, **inputs.chosen},
        quality={name: getattr(figures, name) for name in ("mean_uncertainty", "mean_reference_weight")},
        software_version=__version__,
        created=datetime.now(UTC),
    )


def _fillers(inputs: Inputs) -> dict[str, str]:
    """Return what each kind of pixel was filled by."""
    return {str(kind): str(filler) for kind, filler in inputs.options.fillers.items()}


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
    inputs: Inputs, summary: ProductSummary, figures: UnitFigures, quality: Quality, timings: Mapping[str, float]
) -> dict[str, Any]:
    """Return everything that made a product, as JSON values."""
    unit, model, settings, composite = inputs.unit, inputs.model, inputs.settings, inputs.prepared.composite
    dates, overview = inputs.registered.dates, inputs.registered.overview
    return {
        "unit": {k: v for k, v in asdict(unit).items() if k != "composite"} | {"target_id": unit.target_id},
        "model": {name: getattr(model, name) for name in ("name", "version", "sha256", "calibration", "validation")},
        "parameters": settings.parameters,
        "software": {"unveil-eo": __version__, **_SOFTWARE},
        "sources": [
            {"id": scene.id, "date": str(np.datetime64(int(day), "D"))}
            | {"radiometry": radiometry_of(scene, settings.bands[0], settings.reading)}
            for date, day in zip(dates, overview.days, strict=True)
            for scene in date.items
        ],
        "dropped": [*unit.left_out, *overview.dropped],
        "areas_km2": summary.areas_km2,
        "figures": asdict(figures),
        "normalisation": [asdict(fit) for fit in (composite.fits if composite else ())],
        "seconds": dict(timings),
        "shifts_px": inputs.registered.document,
        "fillers": {"kinds": _fillers(inputs), "pixels": summary.pixels_by_filler},
        "quality": quality.document,
    }


def make_product(
    unit: Unit,
    items: Mapping[str, pystac.Item],
    settings: RunSettings,
    model: ModelRef,
    staging: Path,
    progress: Progress = no_progress,
) -> Made:
    """Make a unit and write all files of its product, its item included, into `staging`.

    Memory does not grow with the cell: blocks are read, restored and written one by one. Finished blocks of a scene are
    kept in the state folder until `discard_blocks`, so a run that was stopped goes on with them.

    Raises:
        InvalidInput: the target, or every date of a mosaic, cannot be used.
        UnreadableAsset: pixels cannot be read.
        DiskFull, NotWritable: the folder cannot be written.
        DeviceLost: the GPU no longer answers; tried again, the rest is made on the CPU.
    """
    stopwatch, looks = Stopwatch(), CountTally()
    enhancer = load_model(model.weights, model.sha256, settings.device)
    inputs = inputs_of(unit, items, settings, model)
    prepared = stopwatch.seconds
    summary, effort, timings = _write_pixels(inputs, enhancer, staging, looks, progress)
    figures = figures_of(summary, effort, stopwatch.seconds)
    measured, settings = stopwatch.seconds, inputs.settings
    # The limits of the gate are those of single dates.
    quality = quality_of(staging, settings.bands, None if isinstance(unit, MosaicUnit) else settings.quality_gate)
    timings |= {"prepare": prepared, "quality": stopwatch.seconds - measured}
    spent = stopwatch.spent(
        km2=figures.valid_km2,
        tiles=effort.tiles,
        model_seconds=effort.restore_seconds,
        on_gpu=next(enhancer.parameters()).is_cuda,
        staging=staging,
        price_per_hour=settings.price_per_hour,
    )
    add_unit(settings.state, spent)
    metadata = metadata_of(inputs, summary, figures, quality, timings) | {"spent": spent.document}
    metadata |= _of_mosaic(inputs, unit, looks) if isinstance(unit, MosaicUnit) else _of_scene(inputs, quality)
    write_json(staging / "metadata.json", metadata)
    write_report(staging, unit.item_id, metadata)
    item = _item(inputs, record_of(inputs, figures), summary, looks, staging)
    quality.mark(item)
    stage_item(item, staging)
    return Made(figures, inputs.registered.overview.dropped)


def _write_pixels(
    inputs: Inputs, enhancer: Enhancer, staging: Path, looks: CountTally, progress: Progress
) -> tuple[ProductSummary, Effort, dict[str, float]]:
    """Restore all blocks and write the layers; return what they hold, what it took, and the seconds of each step."""
    cell = inputs.prepared.cell
    counting = _counted_looks(staging, cell, looks) if isinstance(inputs.unit, MosaicUnit) else nullcontext()
    with ProductWriter(cell.geobox, inputs.settings.bands, staging) as product:
        with counting as look, without_a_lost_gpu(), WriteBehind(product.add) as written:
            effort = restore_cell(
                inputs.read,
                inputs.prepared,
                enhancer,
                inputs.options,
                inputs.store,
                inputs.side,
                progress,
                written,
                inputs.region_px,
                look,
            )
        restored = time.monotonic()
        summary = product.finish(inputs.registered.overview.dn[inputs.first])
    timings = {
        "read": effort.read_seconds,
        "waited": effort.waited_seconds,
        "restore": effort.restore_seconds,
        "model": effort.model_seconds,
        # Most of what can be written before the last pixel is there was written meanwhile.
        "write": written.waited + time.monotonic() - restored,
    }
    return summary, effort, timings


def _of_scene(inputs: Inputs, quality: Quality) -> dict[str, Any]:
    """Return what the metadata of a scene say beside what all say."""
    dates = inputs.registered
    return {"drift": unit_drift(dates.overview, dates.dates[0].items, quality.figures, Path(inputs.model.weights))}


def _of_mosaic(inputs: Inputs, unit: MosaicUnit, looks: CountTally) -> dict[str, Any]:
    """Return what the metadata of a mosaic say beside what all say."""
    composite = unit.composite
    about = {"reference": composite.radiometry.reference, "seen_from_above": seen_from_above(composite)}
    return {"mosaic": inputs.chosen | about, "clear_looks": looks.document}


@contextmanager
def _counted_looks(staging: Path, cell: Cell, looks: CountTally) -> Iterator[Look]:
    """Write the layer `count` of a mosaic block by block, and count along."""
    with CogWriter(staging / f"{COUNT}.tif", cell.geobox, 1, "uint8", COUNT_SPEC) as count:

        def look(block: Block, stack: Stack, layers: ProductLayers) -> None:
            seen = clear_looks(stack)
            count.write(seen[None], block.rows.start, block.columns.start)
            looks.add(seen, layers.provenance)

        yield look
        count.finish()


def _item(
    inputs: Inputs, record: ProductRecord, summary: ProductSummary, looks: CountTally, staging: Path
) -> pystac.Item:
    unit = inputs.unit
    if not isinstance(unit, MosaicUnit):
        return build_item(record, summary, staging)
    mosaic = MosaicRecord(
        unit.region,
        unit.period,
        datetime.fromisoformat(unit.start),
        datetime.fromisoformat(unit.end),
        unit.composite.method,
        unit.composite.radiometry.reference,
        len(inputs.registered.dates),
        from_above=bool(seen_from_above(unit.composite)),
    )
    return build_mosaic_item(record, mosaic, summary, looks, staging)
