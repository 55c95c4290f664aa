"""The catalog of a run, the copies that follow it, and where unfinished blocks wait."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from flows.planning.mosaics import MosaicJob
from flows.progress import report_progress
from flows.settings import RunSettings
from stac.catalog.documents import MOSAICS_COLLECTION
from stac.catalog.indexes.base import open_index
from stac.catalog.indexes.following import Indexes
from stac.catalog.publish import DEFAULT_COLLECTION, StaticCatalog
from stac.errors import StacError

_log = logging.getLogger("unveil")


def catalog_of(settings: RunSettings, collection_id: str = DEFAULT_COLLECTION) -> StaticCatalog:
    """Return the catalog at `settings.out`; products for S3 are made in the state folder."""
    return StaticCatalog(settings.out, collection_id, settings.access.s3, settings.state)


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
