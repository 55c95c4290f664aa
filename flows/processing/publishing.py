"""The catalog of a run, and the tables that follow it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from flows.progress import report_progress
from flows.settings import RunSettings
from stac.catalog.indexes.following import Indexes
from stac.catalog.indexes.opening import open_index
from stac.catalog.opening import target_at
from stac.catalog.publish import DEFAULT_COLLECTION, StaticCatalog
from stac.errors import StacError


def catalog_of(settings: RunSettings, collection_id: str = DEFAULT_COLLECTION) -> StaticCatalog:
    """Return the catalog at `settings.out`; products for S3 are made in the state folder."""
    return StaticCatalog(settings.out, collection_id, settings.access.s3, settings.state)


@contextmanager
def indexes_of(settings: RunSettings) -> Iterator[Indexes]:
    """Open the indexes of the catalog, where the settings name any; they are closed at the end.

    Raises:
        InvalidQuery: an address is not understood.
        MissingExtra: a package is not installed that an index needs.
        IndexNotUpdated: an index does not answer, or refuses.
    """
    target = target_at(settings.out, settings.access.s3, settings.state)
    with ExitStack() as opened:
        each = [
            opened.enter_context(closing(open_index(address, settings.retry_policy)))
            for address in settings.index_addresses
        ]
        yield Indexes(catalog_of(settings), target, each, settings.public_root)


_log = logging.getLogger("unveil")


def keep_mirrors(settings: RunSettings) -> None:
    """Write the GeoParquet files of the months that changed; products stay published when one cannot be written."""
    if not settings.geoparquet:
        return
    # Half a second of imports: only who writes mirrors pays for it.
    from stac.catalog.geoparquet import keep_mirror

    report_progress("updating GeoParquet")
    for name in target_at(settings.out, settings.access.s3, settings.state).collection_ids():
        try:
            keep_mirror(settings.out, name, settings.access.s3, settings.state)
        except StacError as error:
            _log.warning("The GeoParquet files of %s are out of date: %s", name, error)
