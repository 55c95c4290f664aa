"""Serving a static catalog as a STAC API on this machine, for as long as a `with` block lasts."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stac.embedded.memory import load
from stac.errors import InvalidInput, SourceUnavailable

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

_START_S = 30.0
_STOP_S = 5.0
_PROXY_VARIABLES = ("no_proxy", "NO_PROXY")


@contextmanager
def serve_api(catalog_path: Path, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve a static catalog as a STAC API in a thread of this process and yield its root URL.

    Asset hrefs of the catalog's own files become URLs below `/assets` of the same server, which answers
    byte ranges; proxies set in the environment are bypassed for `host` while it runs.

    Args:
        catalog_path: `catalog.json` or its folder.
        host: address to listen on; the default is reachable from this machine only.
        port: 0 takes a free one.

    Raises:
        InvalidInput: the extra `api` is not installed.
        UnreadableCatalog: the catalog cannot be read.
        SourceUnavailable: the port is taken, or the server does not start.
    """
    app = _application(catalog_path)
    with _listening(host, port) as listener, _direct(host):
        server = _server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="stac-api", daemon=True)
        thread.start()
        try:
            _wait(server, thread)
            yield f"http://{host}:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(_STOP_S)
            server.force_exit = True
            thread.join(_STOP_S)


def _application(catalog_path: Path) -> Starlette:
    # It warns about settings that are given later, and logs every 404 as an error with a traceback.
    logging.getLogger("stac_fastapi").setLevel(logging.CRITICAL)
    try:
        # Half a second of imports, and an optional extra: only who serves pays for it.
        from stac.embedded.app import build_app
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"The embedded STAC API needs {error.name}; run: pip install 'unveil-eo[api]'. "
            "Or search the catalog by its path, which needs no server."
        ) from error
    return build_app(load(catalog_path))


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise SourceUnavailable(
            f"The embedded STAC API cannot listen on {host}:{port} ({error.strerror}); choose another port."
        ) from error
    with listener:
        yield listener


def _server(app: Starlette) -> uvicorn.Server:
    import uvicorn

    config = uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="critical",
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)


def _wait(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + _START_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise SourceUnavailable("The embedded STAC API did not start; search the catalog by its path instead.")
        time.sleep(0.01)


@contextmanager
def _direct(host: str) -> Iterator[None]:
    """Keep HTTP clients of this process, GDAL too, from asking a proxy for `host`."""
    before = {name: os.environ.get(name) for name in _PROXY_VARIABLES}
    for name, value in before.items():
        os.environ[name] = f"{value},{host}" if value else host
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
