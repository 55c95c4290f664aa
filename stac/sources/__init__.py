"""Where scenes come from."""

from __future__ import annotations

from stac.sources.base import Source
from stac.sources.static import StaticSource

__all__ = ["Source", "open_source"]


def open_source(location: str, timeout_s: float = 30) -> Source:
    """Return the source at a path or URL.

    Raises:
        UnreadableCatalog: there is no STAC catalog.
        SourceUnavailable: the source did not answer in time.
    """
    return StaticSource(location, timeout_s)
