"""`unveil metrics`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flows.cli import options as o
from flows.cli.console import output, print_json


def metrics(
    config: o.Config = None,
    out: o.Out = None,
    state_dir: o.StateDir = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 9464,
    once: Annotated[bool, typer.Option("--once", help="Print the metrics and end; for a textfile collector.")] = False,
    as_json: o.AsJson = False,
) -> None:
    """Serve the metrics of all runs of a state folder and its ledger to Prometheus, until Ctrl-C.

    Runs add up what they did in the state folder, so that short ones are counted too; this reads it when asked.

    Example:

        unveil metrics --out zagreb --port 9464
    """
    from flows.loading import load_settings
    from flows.metrics.exposition import exposed, serve

    settings = load_settings(config, o.overrides(out=out, state_dir=state_dir))
    if once:
        sys.stdout.write(exposed(settings))
        return
    server, thread = serve(settings, host, port)
    url = f"http://{host}:{server.server_port}/metrics"
    if as_json:
        print_json({"url": url})
    else:
        output.print(f"[bold]{url}[/]  (Ctrl-C stops)")
    thread.join()
