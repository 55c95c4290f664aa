"""The files that `unveil serve` sends: documents and images of a catalog, pages of STAC Browser."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from starlette.datastructures import URL, Headers
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import NotModifiedResponse, PathLike, StaticFiles
from starlette.types import Scope

from flows.viewer.browser_config import index_page

#: Media types by file name ending; STAC Browser draws a GeoTIFF only under exactly this type.
MEDIA_TYPES = {
    ".geojson": "application/geo+json",
    ".html": "text/html",
    ".json": "application/json",
    ".jpg": "image/jpeg",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".tiff": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".webp": "image/webp",
}

_FEATURES = ("Feature", "FeatureCollection")
#: Value of Cache-Control: keep a copy, but ask before using it, for a run may have replaced the file.
REVALIDATE = "no-cache"

_LARGEST_DOCUMENT = 32 * 1024 * 1024
_BUNDLE_FOLDERS = (("css",), ("fonts",), ("img",), ("js",))


class CatalogFiles(StaticFiles):
    """The files of a catalog: none that is hidden, media types of STAC, self links that fit the server."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the file at `path` (relative to the catalog); 404 for hidden and unknown files."""
        if any(part.startswith(".") for part in Path(path).parts):
            raise HTTPException(status_code=404)
        return await super().get_response(path, scope)

    def file_response(
        self, full_path: PathLike, stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return the response for one file, 304 where the client's copy is current."""
        file = Path(os.fspath(full_path))
        response: Response | None = None
        if file.suffix == ".json" and stat_result.st_size <= _LARGEST_DOCUMENT:
            response = _document(file, URL(scope=scope))
        if response is None:
            media_type = MEDIA_TYPES.get(file.suffix.lower())
            response = FileResponse(file, status_code, media_type=media_type, stat_result=stat_result)
        return _revalidated(self, response, scope)


class BrowserFiles(StaticFiles):
    """The built STAC Browser; paths that are no files are pages of the browser (history mode)."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory=directory)
        self._index = index_page(directory)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file of the bundle, or the start page for every other path."""
        if Path(path).parts[:1] in _BUNDLE_FOLDERS:
            response = await super().get_response(path, scope)
            # Names in these folders carry a digest of the content.
            response.headers.setdefault("cache-control", "public, max-age=31536000, immutable")
            return response
        try:
            if path not in (".", "index.html"):
                return await super().get_response(path, scope)
        except HTTPException as error:
            if error.status_code != 404:
                raise
        return _revalidated(self, _with_etag(HTMLResponse(self._index)), scope)


def _document(file: Path, address: URL) -> Response | None:
    """Return a JSON document with its STAC media type; None when it is served as it is on disk."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    feature = content.get("type") in _FEATURES
    media_type = MEDIA_TYPES[".geojson" if feature else ".json"]
    own = str(address.replace(query="", fragment=""))
    if not _rewrite_self(content, own):
        return FileResponse(file, media_type=media_type, stat_result=file.stat())
    return _with_etag(Response(json.dumps(content, ensure_ascii=False).encode(), media_type=media_type))


def _rewrite_self(content: dict[str, Any], address: str) -> bool:
    """Point the self links of a STAC document to `address`; return whether there was one to change."""
    links = content.get("links")
    own = [link for link in links if isinstance(link, dict) and link.get("rel") == "self"] if links else []
    for link in own:
        link["href"] = address
    return bool(own)


def _with_etag(response: Response) -> Response:
    response.headers["etag"] = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    return response


def _revalidated(files: StaticFiles, response: Response, scope: Scope) -> Response:
    """Return 304 where the client's copy is current; else `response`, to be checked again before each use."""
    response.headers["cache-control"] = REVALIDATE
    if files.is_not_modified(response.headers, Headers(scope=scope)):
        return NotModifiedResponse(response.headers)
    return response
