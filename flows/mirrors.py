"""The GeoParquet mirrors of a catalog's collections, kept up to date by what changes the catalog."""

from __future__ import annotations

import logging

from flows.progress import tell
from flows.settings import RunSettings
from stac.catalog.opening import target_at
from stac.errors import StacError

_log = logging.getLogger("unveil")


def keep_mirrors(settings: RunSettings) -> None:
    """Write the GeoParquet files of the months that changed; products stay published when one cannot be written."""
    if not settings.geoparquet:
        return
    # Half a second of imports: only who writes mirrors pays for it.
    from stac.catalog.geoparquet import keep_mirror

    tell("updating GeoParquet")
    for name in target_at(settings.out, settings.access.s3, settings.state).collection_ids():
        try:
            keep_mirror(settings.out, name, settings.access.s3, settings.state)
        except StacError as error:
            _log.warning("The GeoParquet files of %s are out of date: %s", name, error)
