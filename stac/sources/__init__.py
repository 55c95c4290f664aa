"""Where scenes come from."""

from __future__ import annotations

from typing import Any

from stac.errors import UnreadableCatalog
from stac.sources.api import ApiSource
from stac.sources.base import Source
from stac.sources.documents import Documents
from stac.sources.hrefs import is_remote
from stac.sources.static import StaticSource

__all__ = ["Source", "open_source"]


def open_source(location: str, timeout_s: float = 30) -> Source:
    """Return the source at a path or URL: a STAC API where the document says so, else a static catalog.

    Args:
        location: URL of an API's landing page, or URL or path of a static catalog (root document or folder).
        timeout_s: time-out of one request, seconds.

    Raises:
        UnreadableCatalog: there is no STAC catalog.
        SourceUnavailable: the source did not answer in time.
    """
    if not location.strip():
        raise UnreadableCatalog("The source is empty; give the URL of a STAC API or the path of a catalog.json.")
    if is_remote(location) and _is_api(Documents(timeout_s).read(location)):
        return ApiSource(location, timeout_s)
    return StaticSource(location, timeout_s)


def _is_api(root: dict[str, Any]) -> bool:
    """Tell whether a root document is the landing page of an API that can be searched."""
    links = root.get("links")
    rels = {link.get("rel") for link in links if isinstance(link, dict)} if isinstance(links, list) else set()
    return bool(root.get("conformsTo")) or "search" in rels
