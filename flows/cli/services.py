"""Commands around services: serve, doctor."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.cli import options as o
from flows.cli.console import errors, output, print_checks, print_json, progress_bar


def serve(
    out: Annotated[Path, typer.Option("--out", help="Folder of the catalog.")] = Path("unveil-out"),
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8080,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Serve STAC Browser too.")] = True,
    as_json: o.AsJson = False,
) -> None:
    """Serve the catalog together with STAC Browser, and print the address.

    STAC Browser is built once from npm (about two minutes) and kept. Without Node the catalog is served alone and the
    link that opens it in the public STAC Browser is printed.
    """
    from flows.progress import tell
    from flows.viewer.serving import check_catalog
    from flows.viewer.serving import serve as run_server
    from flows.viewer.stac_browser import ensure_browser, public_browser_link

    check_catalog(out)
    folder = None
    if browser:
        with progress_bar():
            folder = ensure_browser(log=tell)

    def announce(url: str) -> None:
        if as_json:
            catalog = f"{url}/catalog/catalog.json"
            shown = url + "/" if folder is not None else public_browser_link(catalog)
            print_json({"url": url, "catalog": catalog, "browser": shown})
            return
        output.print(f"[bold]{url}/[/]  (Ctrl-C stops)")
        if folder is None:
            errors.print("Node.js with npm is missing, so STAC Browser is not served; open the catalog with:")
            errors.print(public_browser_link(f"{url}/catalog/catalog.json"), soft_wrap=True)

    run_server(out, host, port, folder, announce)


def doctor(config: o.Config = None, out: o.Out = None, state_dir: o.StateDir = None, as_json: o.AsJson = False) -> None:
    """Check versions, GPU, services, disk and credentials, and say how to mend what is missing."""
    from flows.loading import load_settings
    from flows.services.doctor import Status, examine

    settings = load_settings(config, o.overrides(out=out, state_dir=state_dir))
    with progress_bar():
        checks = examine(settings)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        print_checks([asdict(check) for check in checks])
    if any(check.status is Status.FAIL for check in checks):
        raise typer.Exit(1)
