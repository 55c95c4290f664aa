"""Make the mosaic of one cell and period, and the item of its region. No Prefect."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from numpy.typing import NDArray

from de_model.enhancer import Enhancer
from flows import __version__
from flows.planning.mosaics import MosaicPlan, radiometry_document
from flows.planning.workunit import ModelRef, MosaicUnit, unit_cell, unit_dates
from flows.processing.blocks import Effort, Progress, WriteBehind, no_progress, restore_cell
from flows.processing.model import load_model, without_a_lost_gpu
from flows.processing.product import (
    UnitFigures,
    figures_of,
    metadata_of,
    options_of,
    quality_of,
    record_of,
    stage_item,
    take_staged_item,
)
from flows.processing.publishing import indexes_of, mosaics_of
from flows.processing.registration import RegisteredDates, register_dates
from flows.processing.restore import Prepared, prepare_with
from flows.reports.page import write_report
from flows.settings import RunSettings
from flows.settings.fields import RestorationOptions
from stac.catalog.documents import MOSAICS_COLLECTION
from stac.catalog.publish import StaticCatalog
from stac.catalog.versions import version_for
from stac.composite.region import PeriodComposite, clear_looks, mosaic_stack
from stac.grid.cell import Cell
from stac.grid.fixed import outline_of_cell
from stac.io.files import write_json
from stac.io.raster import environment
from stac.io.s3 import Location
from stac.load.stack import Stack, read_stack
from stac.masks.classes import PixelClass, is_observed
from stac.product.cog import CogWriter
from stac.product.layers import ProductLayers
from stac.product.mosaic_item import COUNT, COUNT_SPEC, CountTally, MosaicRecord, build_mosaic_item
from stac.product.region_item import CellFile, RegionRecord, build_region_item
from stac.product.writer import Block, ProductWriter

#: Looks of all dates that are read at once, pixels times dates: bounds the memory of a year of dates.
_MOST_LOOKS = 24_000_000
_LEAST_SIDE = 128
#: Share of a cell that any date must have seen: from less all of it would be invented.
_LEAST_SEEN = 0.05


@dataclass(frozen=True, slots=True)
class _Work:
    """What the blocks of a mosaic share."""

    registered: RegisteredDates
    composite: PeriodComposite
    prepared: Prepared
    enhancer: Enhancer
    options: RestorationOptions
    settings: RunSettings

    def read(self, window: Cell) -> Stack:
        """Return the mosaic of a window as a first date, and all others, each where the reference's ground lies."""
        stack = self.registered.read(window)
        return mosaic_stack(stack, self.composite.radiometry.reference, self.composite.method)


def make_mosaic(
    unit: MosaicUnit,
    items: Mapping[str, pystac.Item],
    settings: RunSettings,
    model: ModelRef,
    staging: Path,
    report: Progress = no_progress,
) -> UnitFigures:
    """Make the mosaic of a cell and write all files of its product, its item included, into `staging`.

    Memory does not grow with the cell or the dates: blocks are read, composited, restored and written one by one.

    Args:
        unit: the cell and its dates.
        items: their scenes by id.
        settings: of its job.
        model: restores what no date saw.
        staging: folder.
        report: progress.

    Raises:
        InvalidInput: no date can be used.
        UnreadableAsset: pixels cannot be read.
        DiskFull, NotWritable: the folder cannot be written.
    """
    began = time.monotonic()
    enhancer = load_model(model.weights, model.sha256, settings.device)
    settings = settings.fitted_to(model.scene)
    cell, composite = unit_cell(unit, items, settings), unit.composite
    radiometry = composite.radiometry
    every = {date.id: date for date in unit_dates(unit, items)}
    overview = read_stack(list(every.values()), cell, settings.bands, settings.reading.overview_of(cell), required=())
    dates = tuple(every[name] for name in overview.item_ids)
    registered = register_dates(dates, overview, _reference_of(overview, radiometry.reference), cell, settings)
    dates, overview = registered.dates, registered.overview
    begun = mosaic_stack(overview, radiometry.reference, composite.method)
    how = options_of(settings, model)
    how = replace(how, use_model=settings.use_model and _seen_share(overview) >= _LEAST_SEEN)
    work = _Work(registered, composite, prepare_with(composite, begun, 0, cell), enhancer, how, settings)
    prepared_after, looks = time.monotonic() - began, CountTally()
    with ProductWriter(cell.geobox, settings.bands, staging) as product, without_a_lost_gpu():
        effort = _write_blocks(work, product, staging / f"{COUNT}.tif", looks, report)
        restored = time.monotonic()
        summary = product.finish(_before(overview, radiometry.reference))
    figures = figures_of(summary, effort, time.monotonic() - began)
    timings = {"prepare": prepared_after, "read": effort.read_seconds, "restore": effort.restore_seconds}
    timings |= {"model": effort.model_seconds, "write": time.monotonic() - restored}
    from_above = [fit.date_id for fit in radiometry.dates if fit.view is not None]
    chosen = {"method": str(composite.method), "quantile": composite.quantile, "nbar": bool(from_above)}
    ordered = sorted(dates, key=lambda date: date.id != radiometry.reference)
    record = record_of(unit, settings, model, [item for date in ordered for item in date.items], figures, how.fillers)
    record = replace(record, parameters={**record.parameters, **chosen})
    metadata = metadata_of(unit, settings, model, overview, dates, composite.fits, summary, figures, timings)
    metadata["mosaic"] = chosen | {"reference": radiometry.reference, "seen_from_above": from_above}
    metadata["clear_looks"] = looks.document
    metadata["shifts_px"] = registered.document
    metadata["fillers"] = {"kinds": dict(record.fillers), "pixels": summary.pixels_by_filler}
    quality = quality_of(staging, settings.bands, None)
    metadata["quality"] = quality.document
    write_json(staging / "metadata.json", metadata)
    write_report(staging, unit.item_id, metadata)
    mosaic = MosaicRecord(
        unit.region,
        unit.period,
        datetime.fromisoformat(unit.start),
        datetime.fromisoformat(unit.end),
        composite.method,
        radiometry.reference,
        len(dates),
        from_above=bool(from_above),
    )
    item = build_mosaic_item(record, mosaic, summary, looks, staging)
    quality.mark(item)
    stage_item(item, staging)
    return figures


def _seen_share(overview: Stack) -> float:
    """Return the share of the ground with data that any date saw clear; 0 without data."""
    data = (overview.classes != PixelClass.NODATA).any(axis=0)
    seen = is_observed(overview.classes).any(axis=0)
    return float(seen.sum() / max(int(data.sum()), 1))


def _reference_of(overview: Stack, reference: str) -> int:
    """Return the index of the reference, of the clearest date where a cell does not have it."""
    if reference in overview.item_ids:
        return overview.index_of(reference)
    return int(is_observed(overview.classes).sum(axis=(1, 2)).argmax())


def _write_blocks(work: _Work, product: ProductWriter, counts: Path, looks: CountTally, report: Progress) -> Effort:
    """Make all blocks of a cell, the next ones being read meanwhile."""
    cell, side = work.prepared.cell, _side(work)
    with CogWriter(counts, cell.geobox, 1, "uint8", COUNT_SPEC) as count:

        def look(block: Block, stack: Stack, layers: ProductLayers) -> None:
            seen = clear_looks(stack)
            count.write(seen[None], block.rows.start, block.columns.start)
            looks.add(seen, layers.provenance)

        with WriteBehind(product.add) as written:
            effort = restore_cell(
                work.read, work.prepared, work.enhancer, work.options, None, side, report, written, side, look
            )
        count.finish()
    return effort


def _side(work: _Work) -> int:
    """Return the side of blocks, pixels: as asked for, or less where there are many dates."""
    side = work.settings.block
    while side > _LEAST_SIDE and side * side * len(work.registered.dates) > _MOST_LOOKS:
        side //= 2
    return side


def _before(overview: Stack, reference: str) -> NDArray[np.uint16]:
    """Return what the reference saw, else the first date, for the picture."""
    index = overview.item_ids.index(reference) if reference in overview.item_ids else 0
    found: NDArray[np.uint16] = overview.dn[index]
    return found


def publish_staged(staging: Path, settings: RunSettings, source_collection: Mapping[str, Any]) -> Location:
    """Publish a staged mosaic, of a cell or a region, as the newest version of it; return the place of its item.

    Raises:
        IndexNotUpdated: it is published, but an index does not have it.
        PublishError: it could not be published; the catalog is as it was.
    """
    item = take_staged_item(staging, source_collection)
    catalog, day = mosaics_of(settings), str(item.properties["start_datetime"])
    published = catalog.versions(item.id, day)
    item.properties["version"] = version_for(item.id, published)
    place = catalog.publish(staging, item, source_collection)
    if published:
        catalog.settle_versions(item.id, day)
    if settings.indexes:
        with indexes_of(settings) as indexes:
            for name in sorted({item.id, *(str(document["id"]) for document in published)}):
                indexes.put(catalog.place_of(name))
    return place


def make_region(plan: MosaicPlan, items: Sequence[pystac.Item], staging: Path) -> str:
    """Write overview, VRT, MosaicJSON and item of a region whose cells are published; return the item's id.

    Raises:
        DiskFull, NotWritable: the folder cannot be written.
        RasterioError: a published cell cannot be read.
    """
    job, settings = plan.job, plan.job.settings
    catalog, by_id = mosaics_of(settings), {item.id: item for item in items}
    cells = tuple(_cell_files(plan, catalog, by_id, settings))
    out = settings.out
    root = settings.public_root.rstrip("/") or str(out.absolute() if isinstance(out, Path) else out)
    record = RegionRecord(
        item_id=plan.region_item_id,
        work_id=plan.region_work_id,
        region=job.region.name,
        period=job.period.name,
        start=job.period.start,
        end=job.period.end,
        method=str(job.options.method),
        reference=plan.radiometry.reference,
        bands=tuple(settings.bands),
        cells=cells,
        address=f"{root}/{MOSAICS_COLLECTION}/",
        software_version=__version__,
        created=datetime.now(UTC),
    )
    remote = environment(settings.timeout_s, settings.access.s3) if not isinstance(out, Path) else nullcontext()
    with remote:
        item = build_region_item(record, staging, radiometry_document(plan, items))
    item.properties["unveil:bands"] = list(settings.bands)
    stage_item(item, staging)
    return record.item_id


def _cell_files(
    plan: MosaicPlan, catalog: StaticCatalog, items: Mapping[str, pystac.Item], settings: RunSettings
) -> Iterator[CellFile]:
    for unit in plan.units:
        cell = unit_cell(unit, items, settings)
        document = catalog.document(unit.item_id)
        if document is None:
            continue
        place = catalog.place_of(unit.item_id).parent / str(document["assets"]["visual"]["href"]).removeprefix("./")
        path = place if isinstance(place, Path) else place.gdal_path
        yield CellFile(unit.item_id, cell.geobox, outline_of_cell(cell), str(path))
