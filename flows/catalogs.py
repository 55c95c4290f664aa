"""The catalog that a run writes."""

from __future__ import annotations

from flows.settings import RunSettings
from stac.publish import DEFAULT_COLLECTION, StaticCatalog


def catalog_of(settings: RunSettings, collection_id: str = DEFAULT_COLLECTION) -> StaticCatalog:
    """Return the catalog at `settings.out`; products for S3 are made in the state folder."""
    return StaticCatalog(settings.out, collection_id, settings.access.s3, settings.state)
