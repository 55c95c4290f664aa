"""The Prefect server behind a gate: `python -m flows.services.prefect_app --port 4200`.

Prefect checks the login (PREFECT_SERVER_API_AUTH_STRING) but neither Host nor Origin, so its app is served from here.
"""

from __future__ import annotations

import argparse
import gc
import socket
import sys
from collections.abc import Sequence

#: Answered whatever the Host: the probes of Compose and Kubernetes. They say only that the server is there.
_HEALTH = ("/api/health", "/api/ready")
_KEEP_ALIVE_S = 5
#: Objects between two runs of the garbage collector; the default of 700 costs a tenth of the server's start.
_GC_THRESHOLD = 50_000


def main(arguments: Sequence[str]) -> None:
    """Serve until a signal comes; exits with status 2 where no login is set."""
    options = _options(arguments)
    gc.set_threshold(_GC_THRESHOLD)
    listener = None if options.socket is None else socket.socket(fileno=options.socket)
    port = int(listener.getsockname()[1]) if listener else options.port
    hosts = options.allowed_hosts.split(",") if options.allowed_hosts else loopback_hosts(port)

    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings, temporary_settings

    from flows.services.gate import Gate

    if get_current_settings().server.api.auth_string is None:
        sys.exit("PREFECT_SERVER_API_AUTH_STRING is not set: the server is never open to everybody.")
    # What is said to browsers agrees with what the gate lets pass.
    origins = ",".join(f"{scheme}://{host}" for host in hosts for scheme in ("http", "https"))
    shown = {
        "server.api.host": options.host,
        "server.api.port": port,
        "server.api.cors_allowed_origins": origins,
    }
    with temporary_settings(shown):
        app = Gate(create_app(final=True), hosts=hosts, open_paths=_HEALTH)
        config = uvicorn.Config(
            app, host=options.host, port=port, log_level="warning", timeout_keep_alive=_KEEP_ALIVE_S
        )
        # The port first: a database is not made for a server that cannot listen.
        uvicorn.Server(config).run(sockets=[listener or config.bind_socket()])


def loopback_hosts(port: int) -> list[str]:
    """Return what a browser on this machine calls a server of this machine."""
    return [f"{name}:{port}" for name in ("127.0.0.1", "localhost")]


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="prefect_app", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=4200)
    parser.add_argument(
        "--allowed-hosts", default="", help="NAME:PORT,... under which it is asked; loopback when empty"
    )
    parser.add_argument("--socket", type=int, help="number of an open file instead: a socket that is bound")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
