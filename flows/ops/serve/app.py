"""Serve a static catalog and STAC Browser on one origin: `/catalog/` and `/`.

One origin lets STAC Browser read the catalog whatever the host is called; CORS lets everybody else read it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import html
import ipaddress
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from pyproj import CRS
from pyproj.enums import WktVersion
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import NotModifiedResponse, PathLike, StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.errors import InvalidSettings, ServiceUnavailable
from flows.ops.serve.stac_browser import public_browser_link

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
#: Address of the generated script, and of the catalog that it opens; both relative to the server's root.
CONFIG_PATH = "/unveil-config.js"
CATALOG_PATH = "/catalog/catalog.json"
_TITLE = "Unveil"
_RUNTIME = Path(__file__).parent / "browser" / "runtime.js"
#: Media types that Python does not know, by ending; STAC Browser draws a GeoTIFF only under exactly this type.
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_GEOJSON = "application/geo+json"
#: Value of Cache-Control: keep a copy, but ask before using it, for a run may have replaced the file.
REVALIDATE = "no-cache"
_BUNDLE_FOLDERS = (("css",), ("fonts",), ("img",), ("js",))
CATALOG_FILE = "catalog.json"
#: Collections that are listed last.
_NOT_PRODUCTS = frozenset({"unveil-models", "unveil-review"})
_EXPOSED = ("Accept-Ranges", "Content-Length", "Content-Range", "ETag")
_STOP_TIMEOUT_S = 3


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


_MEDIA_TYPES = {
    ".geojson": _GEOJSON,
    ".parquet": "application/vnd.apache.parquet",
    ".tif": _COG,
    ".tiff": _COG,
    ".vrt": "application/xml",
    ".webp": "image/webp",
}


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


def create_app(catalog_root: Path, browser_dir: Path | None) -> Starlette:
    """Return the app that serves `catalog_root` (holds `catalog.json`) and the STAC Browser in `browser_dir`.

    Without `browser_dir`, `/` is a page that links to the catalog and to the public STAC Browser. Raises
    InvalidSettings when `browser_dir` holds no build of STAC Browser.
    """
    routes: list[BaseRoute] = [
        Route("/healthz", _health(catalog_root)),
        Route("/catalog", _to_catalog),
        Route("/catalog/", _to_catalog),
        Mount("/catalog", CatalogFiles(directory=catalog_root, check_dir=False)),
    ]
    if browser_dir is None:
        routes.append(Route("/", _welcome))
    else:
        routes += [Route(CONFIG_PATH, _config), Mount("/", BrowserFiles(browser_dir))]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["GET", "HEAD"],
        allow_headers=["*"],
        expose_headers=_EXPOSED,
        allow_private_network=True,  # the public STAC Browser may read a catalog on loopback
    )
    return Starlette(routes=routes, middleware=[cors, Middleware(SafeHeaders)])


def serve(catalog_root: Path, host: str, port: int, browser_dir: Path | None, on_ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C.

    Args:
        catalog_root: folder that holds `catalog.json`.
        host: name or address to listen on.
        port: 0 takes a free one.
        browser_dir: a built STAC Browser; None for the catalog alone.
        on_ready: receives the address (`http://host:port`, no trailing slash) when connections are accepted.

    Raises:
        InvalidSettings: there is no catalog, or no STAC Browser in `browser_dir`.
        ServiceUnavailable: the address cannot be listened on.
    """
    check_catalog(catalog_root)
    config = uvicorn.Config(
        create_app(catalog_root, browser_dir),
        access_log=False,
        lifespan="off",
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_STOP_TIMEOUT_S,
    )
    with listen(host, port) as listener:
        on_ready(_address(listener))
        # uvicorn finishes open answers, then raises the interrupt again for its caller.
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def check_catalog(catalog_root: Path) -> None:
    """Raise `InvalidSettings` unless the folder holds a catalog."""
    if not (catalog_root / CATALOG_FILE).is_file():
        raise InvalidSettings(
            f"No catalog was found in {catalog_root}: run `unveil demo` first, or name the folder that holds "
            f"{CATALOG_FILE}."
        )


def start_page(catalog_root: Path) -> str:
    """Return the path of the page to begin with in STAC Browser: the first collection of products, else the catalog."""
    for name in sorted(path.parent.name for path in catalog_root.glob("*/collection.json")):
        if name not in _NOT_PRODUCTS:
            return f"/{name}/collection.json"
    return "/"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on (host, port); connections wait in it until they are served."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ServiceUnavailable(
            f"Port {port} on {host} cannot be used ({getattr(error, 'strerror', None) or error}): stop the program "
            "that holds it, or choose another with --port and --host."
        ) from error


def _address(listener: socket.socket) -> str:
    """Return the address that a person can open; a wildcard host is shown as loopback."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _health(catalog_root: Path) -> Callable[[Request], Response]:
    def answer(_: Request) -> Response:
        there = (catalog_root / CATALOG_FILE).is_file()
        return JSONResponse({"status": "ok" if there else "no catalog"}, status_code=200 if there else 503)

    return answer


def _config(_: Request) -> Response:
    return Response(config_script(), media_type="text/javascript", headers={"cache-control": REVALIDATE})


def _to_catalog(_: Request) -> Response:
    return RedirectResponse(CATALOG_PATH)


def _welcome(request: Request) -> Response:
    """The start page of a machine without Node."""
    catalog = str(request.url.replace(path=CATALOG_PATH, query="", fragment=""))
    link = html.escape(public_browser_link(catalog))
    return HTMLResponse(
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Unveil</title></head>"
        "<body style='font: 1rem sans-serif; max-width: 40rem; margin: 3rem auto; line-height: 1.5'>"
        f"<h1>Unveil</h1><p>The catalog is <a href='{CATALOG_PATH}'>{html.escape(catalog)}</a>.</p>"
        f"<p><a href='{link}'>Open it in the public STAC Browser</a>, or install Node.js with npm and start "
        "<code>unveil serve</code> again for one of your own.</p></body></html>"
    )
