"""The `unveil` command."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from flows import __version__
from flows.cli import catalog, evaluate, operations, predict, registry, runs, services, train
from flows.cli.console import print_error
from flows.cli.setting_options import SettingsGroup
from flows.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_INVALID

_HELP = """Cloud-free satellite mosaics from STAC, with every restored pixel marked.

Start with `unveil demo`, then `unveil serve`. `unveil doctor` says what is missing.
"""
_EPILOG = (
    "Exit status: 0 done; 1 a scene (FAILED) or a service failed; 2 invalid input: settings, or scenes that cannot be "
    "used (INVALID) when none failed; 130 interrupted."
)

app = typer.Typer(cls=SettingsGroup, help=_HELP, epilog=_EPILOG, no_args_is_help=True, pretty_exceptions_enable=False)
_WORK: tuple[Callable[..., None], ...] = (
    runs.demo,
    runs.run,
    runs.plan,
    runs.mosaic,
    services.serve,
    services.doctor,
)
_MODEL: tuple[Callable[..., None], ...] = (
    predict.predict,
    train.train,
    evaluate.evaluate,
    evaluate.calibrate,
)
_REGISTRY: tuple[Callable[..., None], ...] = (
    registry.models,
    registry.register,
    registry.promote,
    registry.rollback,
    registry.retrain,
)
_OPERATION: tuple[Callable[..., None], ...] = (
    operations.backfill,
    operations.redrive,
    operations.census,
    operations.status,
    catalog.publish,
    services.automations,
    services.up,
    services.down,
    evaluate.drift,
    services.metrics,
    catalog.retract,
)
for _command in _WORK:
    app.command()(_command)
for _command in _OPERATION:
    app.command(rich_help_panel="Operations")(_command)
for _command in _MODEL:
    app.command(rich_help_panel="Model")(_command)
for _command in _REGISTRY:
    app.command(rich_help_panel="Model registry")(_command)
app.add_typer(train.app, name="data", rich_help_panel="Model")
app.add_typer(catalog.app, name="catalog", rich_help_panel="Operations")


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"unveil {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Options before the command."""


def main() -> None:
    """Run the command line; every known error becomes one sentence and an exit status."""
    # Prefect's own lines would tear the progress bars; they are kept with the run at the server.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # Older versions of a product are deprecated on purpose; pystac warns about each that is read.
    warnings.filterwarnings("ignore", message="The item '.*' is deprecated")
    os.umask(0o077)  # the catalog is opened to everybody where it is published
    sys.exit(_status())


def _status() -> int:
    as_json = "--json" in sys.argv
    try:
        status = int(app(standalone_mode=False) or 0)
        # The parser makes a status of Ctrl-C, or an Abort.
        return _interrupted(as_json) if status == EXIT_INTERRUPTED else status
    except KeyboardInterrupt:
        return _interrupted(as_json)
    except Exception as error:  # noqa: BLE001 - the last resort: one sentence for everything
        return _explain(error, as_json)


def _interrupted(as_json: bool) -> int:
    message = "Interrupted; nothing half-done was published. The same command continues."
    print_error(message, as_json=as_json, kind="Interrupted")
    return EXIT_INTERRUPTED


def _explain(error: Exception, as_json: bool) -> int:
    """Print an error for people and return the exit status."""
    show, text = getattr(error, "show", None), getattr(error, "format_message", None)
    if show is not None and text is not None:  # what the command-line parser raises
        if as_json:
            print_error(text(), as_json=True, kind="UsageError")
        else:
            show()
        return EXIT_INVALID
    if type(error).__name__ == "Abort":
        return _interrupted(as_json)
    from flows.errors import KNOWN_ERRORS, exit_status

    if isinstance(error, KNOWN_ERRORS):
        print_error(str(error), as_json=as_json, kind=type(error).__name__)
        return exit_status(error)
    from stac.io.secrets import redact

    first = redact((str(error).splitlines() or [""])[0])
    message = f"Unexpected {type(error).__name__}: {first}. The details are in {_keep(error)}; please report them."
    print_error(message, as_json=as_json, kind=type(error).__name__)
    return EXIT_FAILED


def _keep(error: Exception) -> Path:
    """Write the traceback to a log in the working folder, or where it cannot be written in the temporary one."""
    from stac.io.secrets import redact

    text = redact(f"{' '.join(sys.argv)}\n{''.join(traceback.format_exception(error))}")
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        log = folder / "unveil-error.log"
        with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as stream:
            stream.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")
            break
    return log


__all__ = ["app", "main"]
