"""The catalog that a run writes, and the indexes that follow it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from flows.settings import RunSettings
from stac.catalog.indexes.following import Indexes
from stac.catalog.indexes.opening import open_index
from stac.catalog.opening import target_at
from stac.catalog.publish import DEFAULT_COLLECTION, StaticCatalog


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
            opened.enter_context(closing(open_index(address, settings.patience)))
            for address in settings.index_addresses
        ]
        yield Indexes(catalog_of(settings), target, each, settings.public_root)
