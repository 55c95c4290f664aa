"""The catalog of a run: publishing products and regions, the copies that follow, and where unfinished blocks wait."""

from __future__ import annotations

import logging
import os
import posixpath
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac

from flows import __version__
from flows.errors import InvalidSettings
from flows.planning.mosaics import MosaicJob, MosaicPlan, radiometry_document
from flows.planning.workunit import unit_cell
from flows.progress import report_progress
from flows.settings import RunSettings
from stac.catalog.documents import MOSAICS_COLLECTION
from stac.catalog.indexes.base import open_index
from stac.catalog.indexes.following import Indexes
from stac.catalog.product_collections import (
    GATE,
    GATE_REASONS,
    GateState,
    ProductCollection,
    places_of_versions,
    publish_to_collection,
)
from stac.catalog.publish import DEFAULT_COLLECTION, StaticCatalog
from stac.errors import StacError
from stac.grid.fixed import outline_of_cell
from stac.io.files import write_json
from stac.io.raster import environment
from stac.io.s3 import Location
from stac.product.item import credit
from stac.product.region_item import CellFile, RegionRecord, build_region_item

_log = logging.getLogger("unveil")
#: The item waits here until it is published under its own name.
ITEM_FILE = "staged-item.json"


def catalog_of(settings: RunSettings, collection_id: str = DEFAULT_COLLECTION) -> StaticCatalog:
    """Return the catalog at `settings.out`; products for S3 are made in the state folder."""
    return StaticCatalog(settings.out, collection_id, settings.access.s3, settings.state)


def require_catalog(settings: RunSettings) -> StaticCatalog:
    """Return the catalog at `settings.out`.

    Raises:
        InvalidSettings: there is none; nothing is made.
    """
    catalog = catalog_of(settings)
    if not catalog.exists():
        raise InvalidSettings(
            f"No catalog was found in {settings.out}: name it with --out, or make one with `unveil run`."
        )
    return catalog


def mosaics_of(settings: RunSettings) -> StaticCatalog:
    """Return the collection of mosaics of the catalog."""
    return catalog_of(settings, MOSAICS_COLLECTION)


def known_radiometry(job: MosaicJob) -> dict[str, Any] | None:
    """Return the radiometry document of the newest published mosaic of a region and period; None without one."""
    settings, catalog = job.settings, mosaics_of(job.settings)
    found = catalog.versions(f"{job.name}-region-unveil-00000000", job.start)
    if not found:
        return None
    newest = max(found, key=lambda document: int(document["properties"].get("version", "0")))
    if newest["properties"].get("unveil:bands", list(settings.bands)) != list(settings.bands):
        return None
    href = str(newest["assets"]["radiometry"]["href"]).removeprefix("./")
    return catalog.target.read(f"{MOSAICS_COLLECTION}/{newest['id']}/{href}")


@contextmanager
def indexes_of(settings: RunSettings) -> Iterator[Indexes]:
    """Open the indexes of the catalog, where the settings name any; they are closed at the end.

    Raises:
        InvalidQuery: an address is not understood.
        MissingExtra: a package is not installed that an index needs.
        IndexNotUpdated: an index does not answer, or refuses.
    """
    with ExitStack() as opened:
        each = [
            opened.enter_context(closing(open_index(address, settings.retry_policy)))
            for address in settings.index_addresses
        ]
        yield Indexes(catalog_of(settings), each, settings.public_root)


@contextmanager
def own_staging(catalog: StaticCatalog, name: str) -> Iterator[Path]:
    """Yield a staging folder that no other run has; what publishing leaves of it, or a failure, is removed."""
    staging = catalog.staging(f"{name}-{uuid.uuid4().hex[:8]}")
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def stage_item(item: pystac.Item, staging: Path) -> None:
    """Write an item into the folder of its files, for `publish_staged`."""
    write_json(staging / ITEM_FILE, item.to_dict(include_self_link=False, transform_hrefs=False))


def publish_staged(staging: Path, settings: RunSettings, source_collection: Mapping[str, Any]) -> Location:
    """Publish a staged product as the newest version of it; one that failed the gate is laid aside for review.

    Indexes follow when it is published: the next run repairs one that could not.

    Returns:
        The place of its item.

    Raises:
        IndexNotUpdated: it is published, but an index does not have it.
        PublishError: it could not be published; the catalog is as it was.
    """
    item, catalog = pystac.Item.from_file(str(staging / ITEM_FILE)), catalog_of(settings)
    item.set_self_href(None)
    (staging / ITEM_FILE).unlink()
    credit(item, source_collection, __version__)
    place = publish_to_collection(catalog, staging, item, source_collection)
    if settings.indexes:
        with indexes_of(settings) as indexes:
            for changed in places_of_versions(catalog, item):
                indexes.put(changed)
    return place


def review_note(catalog: StaticCatalog, item_id: str) -> str:
    """Return why a published item waits for review, empty where it does not.

    Raises:
        InvalidProduct: the item cannot be read.
    """
    properties = (catalog.beside(ProductCollection.REVIEW).document(item_id) or {}).get("properties", {})
    if properties.get(GATE) != GateState.FAILED:
        return ""
    return f"needs review: {' '.join(properties.get(GATE_REASONS, []))}"


def discard_blocks(work_ids: Iterable[str], settings: RunSettings) -> None:
    """Remove the blocks of units that are published, or that never will be."""
    for work_id in work_ids:
        shutil.rmtree(blocks_folder(work_id, settings), ignore_errors=True)


def blocks_folder(work_id: str, settings: RunSettings) -> Path:
    """Return where the blocks of a unit are kept: catalogs that share a state folder do not share blocks."""
    out, state = settings.out, settings.state.absolute()
    # The way from the state folder, as in the ledger: both may be moved together.
    place = os.path.relpath(out.absolute(), state) if isinstance(out, Path) else out
    catalog = uuid.uuid5(uuid.NAMESPACE_URL, str(place)).hex[:12]
    return settings.state / "blocks" / catalog / work_id


def keep_mirrors(settings: RunSettings) -> None:
    """Write the GeoParquet files of the months that changed; products stay published when one cannot be written."""
    if not settings.geoparquet:
        return
    # Half a second of imports: only who writes mirrors pays for it.
    from stac.catalog.geoparquet import keep_mirror

    report_progress("updating GeoParquet")
    catalog = catalog_of(settings)
    for name in catalog.target.collection_ids():
        try:
            keep_mirror(catalog.beside(name))
        except StacError as error:
            _log.warning("The GeoParquet files of %s are out of date: %s", name, error)


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
