"""Serve a catalog's files with safe headers and STAC Browser's configuration."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path

from pyproj import CRS
from pyproj.enums import WktVersion
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import NotModifiedResponse, PathLike, StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.errors import InvalidSettings

#: Of STAC Browser: its own scripts; pictures, documents and tiles from wherever an item says; styles that it writes.
_BROWSER = (
    "default-src 'self'; "
    "script-src 'self' 'wasm-unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; "
    "worker-src 'self' blob: data:; "
    "img-src 'self' data: blob: https: http:; "
    "connect-src 'self' data: blob: https: http:; "
    "font-src 'self' data:; "
    "object-src 'none'; "
    "base-uri 'self'; "
    "form-action 'self'; "
    "frame-ancestors 'none'"
)
#: Of the catalog's files: no script, nothing from elsewhere.
_CATALOG = (
    "default-src 'none'; "
    "img-src 'self' data:; "
    "style-src 'unsafe-inline'; "
    "base-uri 'none'; "
    "form-action 'none'; "
    "frame-ancestors 'none'; "
    "sandbox allow-downloads allow-popups"
)
_ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
}


class SafeHeaders:
    """ASGI middleware that adds the headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the app does, with the headers."""
        policy = _CATALOG if scope.get("path", "").startswith("/catalog/") else _BROWSER

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = policy
                for name, value in _ALWAYS.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, with_headers)


#: Address of the generated script, and of the catalog that it opens; both relative to the server's root.
CONFIG_PATH = "/unveil-config.js"
CATALOG_PATH = "/catalog/catalog.json"

_TITLE = "Unveil"
_RUNTIME = Path(__file__).parent / "browser" / "runtime.js"


@functools.cache
def utm_definitions() -> dict[str, str]:
    """Return OGC WKT 1 by EPSG code for every UTM zone on WGS 84: EPSG:32601-32660 and EPSG:32701-32760.

    Only EPSG:3857 and EPSG:4326 are built into STAC Browser; it asks an outside service for each other code.
    """
    codes = [f"EPSG:{base + zone}" for base in (32600, 32700) for zone in range(1, 61)]
    return {code: CRS.from_user_input(code).to_wkt(WktVersion.WKT1_GDAL) for code in codes}


def config_script() -> str:
    """Return the JavaScript that sets `window.STAC_BROWSER_CONFIG`; it must run before the bundle."""
    settings = {
        "catalogPath": CATALOG_PATH,
        "title": _TITLE,
        "basemap": "graticule",  # asks no outside service for tiles
        "crs": utm_definitions(),
    }
    return f"window.UNVEIL_SETTINGS = {json.dumps(settings)};\n{_RUNTIME.read_text(encoding='utf-8')}"


def index_page(browser_dir: Path) -> str:
    """Return the start page of the build in `browser_dir`, with the configuration loaded first.

    Raises InvalidSettings when the folder holds no build of STAC Browser.
    """
    index = browser_dir / "index.html"
    try:
        page = index.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidSettings(f"{browser_dir} holds no STAC Browser: {index.name} cannot be read.") from error
    if "<head>" not in page:
        raise InvalidSettings(f"{index} is not the start page of STAC Browser: it has no <head>.")
    page = page.replace("<title>STAC Browser</title>", f"<title>{_TITLE}</title>", 1)
    return page.replace("<head>", f'<head><script src="{CONFIG_PATH}"></script>', 1)


#: Media types that Python does not know, by ending; STAC Browser draws a GeoTIFF only under exactly this type.
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_GEOJSON = "application/geo+json"
_MEDIA_TYPES = {
    ".geojson": _GEOJSON,
    ".parquet": "application/vnd.apache.parquet",
    ".tif": _COG,
    ".tiff": _COG,
    ".vrt": "application/xml",
    ".webp": "image/webp",
}

#: Value of Cache-Control: keep a copy, but ask before using it, for a run may have replaced the file.
REVALIDATE = "no-cache"

_BUNDLE_FOLDERS = (("css",), ("fonts",), ("img",), ("js",))


class CatalogFiles(StaticFiles):
    """The files of a catalog: none that is hidden, with media types of STAC."""

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
        media_type = _GEOJSON if _is_item(file) else _MEDIA_TYPES.get(file.suffix.lower())
        response = FileResponse(file, status_code, media_type=media_type, stat_result=stat_result)
        return _revalidated(self, response, scope)


def _is_item(file: Path) -> bool:
    """Return whether a file of a catalog is the document of an item, by its place."""
    return file.suffix == ".json" and file.stem == file.parent.name and file.stem != "catalog"


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


def _with_etag(response: Response) -> Response:
    response.headers["etag"] = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    return response


def _revalidated(files: StaticFiles, response: Response, scope: Scope) -> Response:
    """Return 304 where the client's copy is current; else `response`, to be checked again before each use."""
    response.headers["cache-control"] = REVALIDATE
    if files.is_not_modified(response.headers, Headers(scope=scope)):
        return NotModifiedResponse(response.headers)
    return response
