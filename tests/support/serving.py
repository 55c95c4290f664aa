"""The server of `unveil serve` on a free port, in a thread of this process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from flows.ops.serve.app import create_app, listen


@contextlib.contextmanager
def running(catalog_root: Path, browser_dir: Path | None) -> Iterator[str]:
    """Serve a catalog and a built browser; yields the address without trailing slash.

    Do not open an address of it with rasterio, which waits for the answer while it holds the interpreter lock.
    """
    app = create_app(catalog_root, browser_dir)
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning", timeout_graceful_shutdown=3))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=10)
