"""The commands `up` and `down`: a working system from one folder."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from flows.cli import options as o
from flows.cli.console import errors, output, print_json, progress_bar
from flows.errors import EXIT_FAILED

if TYPE_CHECKING:
    from flows.up.control import Standing
    from flows.up.members import Place

Out = Annotated[Path, typer.Option("--out", help="Folder of the catalog.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Remembered; 0 takes a free one.")]
_SHOWN = {"prefect": "Prefect", "mlflow": "MLflow", "catalog": "catalog and browser", "worker": "worker"}


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
    from flows.services.login import login_file
    from flows.up.control import detach as run_detached
    from flows.up.control import standing
    from flows.up.members import Service
    from flows.up.supervisor import place_for, require_down, require_free
    from flows.up.supervisor import up as run

    ports = dict(zip(Service, (prefect_port, mlflow_port, catalog_port, worker_port), strict=True))
    place = place_for(out, _state(out, state_dir), ports, browser=browser)
    login = login_file(place.folder)
    if status:
        _show(standing(place), as_json, login)
        return
    require_down(place)
    require_free(place)
    if browser:
        _prepare_browser()
    if detach:
        run_detached(_arguments(place), place.state)
        _show(standing(place), as_json, login)
        return

    def announce(ready: Place) -> None:
        _show(standing(ready), as_json, login)
        if not as_json:
            output.print("Ctrl-C stops all of it.")

    try:
        run(place, announce, lambda line: errors.print(line, markup=False))
    except KeyboardInterrupt:
        errors.print("Stopped; the same command goes on.")


def down(out: Out = Path("unveil-out"), state_dir: o.StateDir = None, as_json: o.AsJson = False) -> None:
    """Stop what `unveil up` started, runs included; the next run goes on with their work.

    Example:

        unveil down --out zagreb
    """
    from flows.up.control import down as stop
    from flows.up.supervisor import place_for

    stopped = stop(place_for(out, _state(out, state_dir), {}, browser=False))
    if as_json:
        print_json({"stopped": stopped})
    else:
        output.print("Stopped." if stopped else f"Nothing was up in {out}.", markup=False)


def _state(out: Path, state_dir: Path | None) -> Path:
    """Return the state folder as a run has it, without the import of all that a run needs."""
    return Path(state_dir or os.environ.get("UNVEIL_STATE_DIR") or out / ".unveil").resolve()


def _prepare_browser() -> None:
    from flows.progress import tell
    from flows.viewer.stac_browser import ensure_browser

    with progress_bar():
        ensure_browser(log=tell)


def _arguments(place: Place) -> list[str]:
    ports = [word for name, port in place.ports.items() for word in (f"--{name}-port", str(port))]
    browser = "--browser" if place.browser else "--no-browser"
    return ["up", "--out", str(place.out), "--state-dir", str(place.state), browser, *ports]


def _how_to_log_in(services: tuple[Standing, ...], login: Path) -> str:
    """Return what a person needs to open the pages and to use `prefect` and `mlflow`, without the password itself."""
    address = {service.service: service.address for service in services}
    return (
        f"Login: the line USER:PASSWORD in {login}. Prefect's page asks for the whole line, MLflow's for both halves.\n"
        f'  export PREFECT_API_URL={address["prefect"]}/api PREFECT_API_AUTH_STRING="$(cat {shlex.quote(str(login))})"'
    )


def _show(services: tuple[Standing, ...], as_json: bool, login: Path | None = None) -> None:
    healthy = all(service.healthy for service in services)
    if as_json:
        document = {"healthy": healthy, "services": [asdict(service) for service in services]}
        print_json(document if login is None else {**document, "login": str(login)})
    else:
        table = Table("", "address", "health", "process", title="Unveil")
        for service in services:
            health = "[green]ok[/]" if service.healthy else f"[red]{escape(service.problem)}[/]"
            table.add_row(_SHOWN[service.service], service.address, health, str(service.pid or ""))
        output.print(table)
        if healthy and login is not None:
            output.print(_how_to_log_in(services, login), markup=False, highlight=False, soft_wrap=True)
        sys.stdout.flush()
    if not healthy:
        raise typer.Exit(EXIT_FAILED)
