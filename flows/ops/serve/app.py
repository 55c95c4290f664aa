"""Serve a static catalog and STAC Browser on one origin: `/catalog/` and `/`.

One origin lets STAC Browser read the catalog whatever the host is called; CORS lets everybody else read it.
"""

from __future__ import annotations

import contextlib
import html
import ipaddress
import socket
from collections.abc import Callable
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
_STOP_TIMEOUT_S = 3


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
