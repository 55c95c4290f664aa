"""Make the item of a whole region whose cells are published: overview, VRT, MosaicJSON. No Prefect."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pystac

from flows import __version__
from flows.planning.mosaics import MosaicPlan, radiometry_document
from flows.planning.workunit import unit_cell
from flows.processing.publishing import mosaics_of, stage_item
from flows.settings import RunSettings
from stac.catalog.documents import MOSAICS_COLLECTION
from stac.catalog.publish import StaticCatalog
from stac.grid.fixed import outline_of_cell
from stac.io.raster import environment
from stac.product.mosaic_item import CellFile, RegionRecord, build_region_item


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
        visual = str(document["assets"]["visual"]["href"]).removeprefix("./")
        place = catalog.place_of(unit.item_id).parent / visual
        path = place if isinstance(place, Path) else place.gdal_path
        folder = posixpath.dirname(f"{unit.item_id}/{visual}")
        yield CellFile(unit.item_id, cell.geobox, outline_of_cell(cell), folder, str(path))
