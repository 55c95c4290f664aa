"""Make the product of a unit, a scene or a cell of a mosaic: read, restore, assess, write, describe. No Prefect."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import pystac

from de_model.enhancer import Enhancer
from flows.drift.units import unit_drift
from flows.ledger.spent import Stopwatch, add_unit
from flows.planning.workunit import ModelRef, MosaicUnit, Unit
from flows.processing.blocks import Effort, Look, Progress, WriteBehind, no_progress, restore_cell
from flows.processing.inputs import Inputs, inputs_of, seen_from_above
from flows.processing.model import load_model, without_a_lost_gpu
from flows.processing.publishing import stage_item
from flows.processing.record import Quality, UnitFigures, figures_of, metadata_of, quality_of, record_of
from flows.reports.page import write_report
from flows.settings import RunSettings
from stac.composite.period import clear_looks
from stac.grid.cell import Cell
from stac.io.files import write_json
from stac.load.stack import Stack
from stac.product.block_store import Block
from stac.product.cog import CogWriter
from stac.product.item import ProductRecord, build_item
from stac.product.layers import ProductLayers
from stac.product.mosaic_item import COUNT, COUNT_SPEC, CountTally, MosaicRecord, build_mosaic_item
from stac.product.writer import ProductSummary, ProductWriter


def make_product(
    unit: Unit,
    items: Mapping[str, pystac.Item],
    settings: RunSettings,
    model: ModelRef,
    staging: Path,
    progress: Progress = no_progress,
) -> UnitFigures:
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
    return figures


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
