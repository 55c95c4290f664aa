"""Serve a static catalog and STAC Browser on one origin: `/catalog/` and `/`.

One origin lets STAC Browser read the catalog whatever the host is called; CORS lets everybody else read it.
"""

from __future__ import annotations

import contextlib
import html
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from flows.errors import InvalidSettings, ServiceUnavailable
from flows.ops.serve.files import (
    CATALOG_PATH,
    CONFIG_PATH,
    REVALIDATE,
    Basemap,
    BrowserFiles,
    CatalogFiles,
    SafeHeaders,
    config_script,
)
from flows.ops.serve.stac_browser import public_browser_link

CATALOG_FILE = "catalog.json"
#: Collections that are listed last.
_NOT_PRODUCTS = frozenset({"unveil-models", "unveil-review"})

_EXPOSED = ("Accept-Ranges", "Content-Length", "Content-Range", "ETag")
_LAST_PORT = 65535
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 3


def create_app(catalog_root: Path, browser_dir: Path | None, *, basemap: Basemap = Basemap.GRATICULE) -> Starlette:
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
        routes += [Route(CONFIG_PATH, _config(basemap)), Mount("/", BrowserFiles(browser_dir))]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["GET", "HEAD"],
        allow_headers=["*"],
        expose_headers=_EXPOSED,
        allow_private_network=True,  # the public STAC Browser may read a catalog on loopback
    )
    return Starlette(routes=routes, middleware=[cors, Middleware(SafeHeaders)])


def serve(
    catalog_root: Path,
    host: str,
    port: int,
    browser_dir: Path | None,
    on_ready: Callable[[str], None],
    *,
    basemap: Basemap = Basemap.GRATICULE,
) -> None:
    """Serve until Ctrl-C.

    `on_ready` receives the address (`http://host:port`, no trailing slash) once the server answers. Port 0
    takes a free one. Raises InvalidSettings without a catalog or `host` cannot be resolved,
    ServiceUnavailable when the port is taken or not permitted.
    """
    check_catalog(catalog_root)
    app = create_app(catalog_root, browser_dir, basemap=basemap)
    with contextlib.closing(_listen(host, port)) as listener:
        server = _Server(app, lambda: on_ready(_address(listener)))
        # uvicorn finishes open answers, then raises the interrupt again for its caller.
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


@contextlib.contextmanager
def running(catalog_root: Path, browser_dir: Path | None, *, basemap: Basemap = Basemap.GRATICULE) -> Iterator[str]:
    """Serve on a free loopback port from a background thread; yields the address without trailing slash.

    The caller must not open an address of it with rasterio, which waits for the answer while it holds the
    interpreter lock. Raises InvalidSettings without a catalog, ServiceUnavailable when the server does
    not start.
    """
    check_catalog(catalog_root)
    app = create_app(catalog_root, browser_dir, basemap=basemap)
    with contextlib.closing(_listen("127.0.0.1", 0)) as listener:
        ready = threading.Event()
        server = _Server(app, ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            if not ready.wait(_START_TIMEOUT_S):
                raise ServiceUnavailable(f"The catalog server did not start within {_START_TIMEOUT_S:.0f} s.")
            yield _address(listener)
        finally:
            server.should_exit = True
            thread.join(timeout=_STOP_TIMEOUT_S + 5)


class _Server(uvicorn.Server):
    """A quiet server that says when it listens."""

    def __init__(self, app: Starlette, on_started: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            access_log=False,
            lifespan="off",
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=_STOP_TIMEOUT_S,
        )
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, then notify the owner."""
        await super().startup(sockets)
        if self.started:
            self._on_started()


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


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on (host, port)."""
    if not 0 <= port <= _LAST_PORT:  # getaddrinfo would wrap it around
        raise InvalidSettings(f"{port} is not a port: choose one between 0 and {_LAST_PORT} with --port.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InvalidSettings(f"{host}:{port} is not an address to serve on: choose another --host.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise ServiceUnavailable(
            f"Port {port} on {host} cannot be used ({error.strerror}): "
            "stop the program that holds it, or choose another with --port."
        ) from error
    return listener


def _address(listener: socket.socket) -> str:
    """Return the address that a person can open; a wildcard host is shown as loopback."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _health(catalog_root: Path) -> Callable[[Request], Response]:
    started = time.monotonic()

    def answer(_: Request) -> Response:
        there = (catalog_root / CATALOG_FILE).is_file()
        body = {"status": "ok" if there else "no catalog", "uptime_s": round(time.monotonic() - started, 1)}
        return JSONResponse(body, status_code=200 if there else 503)

    return answer


def _config(basemap: Basemap) -> Callable[[Request], Response]:
    script = config_script(basemap)

    def answer(_: Request) -> Response:
        return Response(script, media_type="text/javascript", headers={"cache-control": REVALIDATE})

    return answer


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
