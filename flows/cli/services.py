"""Commands for services: metrics, automations, serve, doctor, up, down."""

from __future__ import annotations

import os
import shlex
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from flows.cli import options as o
from flows.cli.console import errors, output, print_json, print_table, progress_bar, show, styled
from flows.cli.setting_options import Given, takes_settings
from flows.errors import EXIT_FAILED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flows.ops.doctor import Check
    from flows.ops.up.supervisor import Place, ServiceHealth

_STYLES = {"create": "green", "update": "yellow", "remove": "red"}
Out = Annotated[Path, typer.Option("--out", help="Folder of the catalog.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Remembered; 0 takes a free one.")]
_SHOWN = {"prefect": "Prefect", "mlflow": "MLflow", "catalog": "catalog and browser", "worker": "worker"}


@takes_settings("out", "state_dir")
def metrics(
    given: Given,
    config: o.Config = None,
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
    from flows.ops.exposition import exposed, serve

    settings = o.settings(config, **given)
    if once:
        sys.stdout.write(exposed(settings))
        return
    server, thread = serve(settings, host, port)
    url = f"http://{host}:{server.server_port}/metrics"
    show({"url": url}, as_json, lambda: output.print(f"[bold]{url}[/]  (Ctrl-C stops)"))
    thread.join()


def automations(
    apply: Annotated[bool, typer.Option("--apply", help="Do it; otherwise only show what would be done.")] = False,
    silence: Annotated[float, typer.Option(min=10, help="Seconds without heartbeat after which a run is dead.")] = 540,
    as_json: o.AsJson = False,
) -> None:
    """Bring the automations of the configured Prefect server to what they should be; others are not touched.

    `UNVEIL_NOTIFY_BLOCK=TYPE/NAME` or `UNVEIL_NOTIFY_WEBHOOK=URL` says what is notified of failures.

    Example:

        unveil automations --apply
    """
    from flows.ops.automations import apply_automations

    lines = apply_automations(silence, dry_run=not apply)
    rows = [(each.name, styled(each.change, _STYLES), "" if each.enabled else "paused") for each in lines]
    columns = ("automation", "done" if apply else "to do", "")
    show(lines, as_json, lambda: print_table("Automations", columns, rows))


def serve(
    out: Annotated[Path, typer.Option("--out", help="Folder of the catalog.")] = Path("unveil-out"),
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8080,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Serve STAC Browser too.")] = True,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the mosaics in the web browser of this machine.")
    ] = False,
    as_json: o.AsJson = False,
) -> None:
    """Serve the catalog together with STAC Browser, and print the address of the mosaics.

    STAC Browser is built once from npm (about two minutes) and kept. Without Node the catalog is served alone and the
    link that opens it in the public STAC Browser is printed.
    """
    from flows.ops.serve.app import check_catalog, start_page
    from flows.ops.serve.app import serve as run_server
    from flows.ops.serve.stac_browser import public_browser_link

    check_catalog(out)
    page = start_page(out)
    folder = _built_browser() if browser else None

    def announce(url: str) -> None:
        if as_json:
            catalog = f"{url}/catalog/catalog.json"
            shown = url + "/" if folder is not None else public_browser_link(catalog)
            print_json({"url": url, "catalog": catalog, "browser": shown, "page": url + page})
            return
        output.print(f"Mosaics: [bold]{url}{page if folder is not None else '/'}[/]  (Ctrl-C stops)", soft_wrap=True)
        if folder is not None and open_page:
            webbrowser.open(url + page)
        if folder is None:
            why = (
                "Node.js with npm is missing, so STAC Browser is not served" if browser else "STAC Browser is left out"
            )
            errors.print(f"{why}; open the catalog with:", soft_wrap=True)
            errors.print(public_browser_link(f"{url}/catalog/catalog.json"), soft_wrap=True)

    run_server(out, host, port, folder, announce)


@takes_settings("out", "state_dir")
def doctor(given: Given, config: o.Config = None, as_json: o.AsJson = False) -> None:
    """Check GPU, folders, services and credentials, and say how to fix what is missing."""
    from flows.ops.doctor import Status, examine

    settings = o.settings(config, **given)
    with progress_bar():
        checks = examine(settings)
    show(checks, as_json, lambda: _print_checks(checks))
    if any(check.status is Status.FAIL for check in checks):
        raise typer.Exit(1)


def _print_checks(checks: Iterable[Check]) -> None:
    styles = {"OK": "green", "WARN": "yellow", "FAIL": "red"}
    rows = [(styled(check.status, styles), check.name, check.detail, check.remedy) for check in checks]
    print_table("", ("", "check", "found", "what to do"), rows)


def up(
    out: Out = Path("unveil-out"),
    state_dir: o.StateDir = None,
    prefect_port: Port = None,
    mlflow_port: Port = None,
    catalog_port: Port = None,
    worker_port: Port = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Serve STAC Browser too.")] = True,
    detach: Annotated[bool, typer.Option("--detach", help="Return when all services answer.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only show how the services are.")] = False,
    as_json: o.AsJson = False,
) -> None:
    """Start Prefect, a worker, MLflow, and the catalog with STAC Browser; the deployments of prefect.yaml are ready.

    All state is kept in the state folder, so the next start goes on with it, on the same ports. A service that ends is
    started again. Ctrl-C, or `unveil down`, stops everything.

    Example:

        unveil up --out zagreb --detach
    """
    from flows.ops.up import supervisor
    from flows.ops.up.supervisor import Service, place_for
    from flows.services.state import login_file

    ports = dict(zip(Service, (prefect_port, mlflow_port, catalog_port, worker_port), strict=True))
    place = place_for(out, _state(out, state_dir), ports, browser=browser)
    login = login_file(place.folder)
    if status:
        _show(supervisor.health_of(place), as_json, login)
        return
    supervisor.require_down(place)
    supervisor.require_free_ports(place)
    if browser:
        _built_browser()
    if detach:
        supervisor.detach(_arguments(place), place.state)
        _show(supervisor.health_of(place), as_json, login)
        return

    def announce(ready: Place) -> None:
        _show(supervisor.health_of(ready), as_json, login)
        if not as_json:
            output.print("Ctrl-C stops all of it.")

    try:
        supervisor.up(place, announce, lambda line: errors.print(line, markup=False))
    except KeyboardInterrupt:
        errors.print("Stopped; the same command goes on.")


def down(out: Out = Path("unveil-out"), state_dir: o.StateDir = None, as_json: o.AsJson = False) -> None:
    """Stop what `unveil up` started, runs included; the next run goes on with their work.

    Example:

        unveil down --out zagreb
    """
    from flows.ops.up import supervisor
    from flows.ops.up.supervisor import place_for

    stopped = supervisor.down(place_for(out, _state(out, state_dir), {}, browser=False))
    show({"stopped": stopped}, as_json, "Stopped." if stopped else f"Nothing was up in {out}.")


def _state(out: Path, state_dir: Path | None) -> Path:
    """Return the state folder as a run has it, without the import of all that a run needs."""
    return Path(state_dir or os.environ.get("UNVEIL_STATE_DIR") or out / ".unveil").resolve()


def _built_browser() -> Path | None:
    from flows.ops.serve.stac_browser import ensure_browser

    with progress_bar():
        return ensure_browser()


def _arguments(place: Place) -> list[str]:
    ports = [word for name, port in place.ports.items() for word in (f"--{name}-port", str(port))]
    browser = "--browser" if place.browser else "--no-browser"
    return ["up", "--out", str(place.out), "--state-dir", str(place.state), browser, *ports]


def _how_to_log_in(services: tuple[ServiceHealth, ...], login: Path) -> str:
    """Return what a person needs to open the pages and to use `prefect` and `mlflow`, without the password itself."""
    address = {service.service: service.address for service in services}
    return (
        f"Login: the line USER:PASSWORD in {login}. Prefect's page asks for the whole line, MLflow's for both halves.\n"
        f'  export PREFECT_API_URL={address["prefect"]}/api PREFECT_API_AUTH_STRING="$(cat {shlex.quote(str(login))})"'
    )


def _show(services: tuple[ServiceHealth, ...], as_json: bool, login: Path | None = None) -> None:
    healthy = all(service.healthy for service in services)
    if as_json:
        document = {"healthy": healthy, "services": list(services)}
        print_json(document if login is None else {**document, "login": str(login)})
    else:
        rows = [
            (_SHOWN[s.service], s.address, Text("ok", "green") if s.healthy else Text(s.problem, "red"), s.pid or "")
            for s in services
        ]
        print_table("Unveil", ("", "address", "health", "process"), rows)
        if healthy and login is not None:
            output.print(_how_to_log_in(services, login), markup=False, highlight=False, soft_wrap=True)
        sys.stdout.flush()
    if not healthy:
        raise typer.Exit(EXIT_FAILED)
