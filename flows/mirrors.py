"""The GeoParquet mirrors of a catalog's collections, kept up to date by what changes the catalog."""

from __future__ import annotations

import logging

from flows.progress import tell
from flows.settings import RunSettings
from stac.errors import StacError
from stac.targets import target_at

_log = logging.getLogger("unveil")


def keep_mirrors(settings: RunSettings, *, changed: bool) -> None:
    """Bring the mirror of every collection up to date; products stay published when one cannot be written.

    Args:
        settings: of the catalog; nothing is done where they want no mirror.
        changed: items were added, replaced or removed just now.
    """
    if not settings.geoparquet:
        return
    # Half a second of imports: only who writes mirrors pays for it.
    from stac.geoparquet import keep_mirror

    tell("updating items.parquet")
    target = target_at(settings.out, settings.access.s3, settings.state)
    for name in target.collection_ids():
        try:
            keep_mirror(settings.out, name, settings.access.s3, settings.state, changed=changed)
        except StacError as error:
            _log.warning("items.parquet of %s is out of date: %s", name, error)
