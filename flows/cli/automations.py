"""The command `automations`: what the Prefect server does by itself."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from flows.cli import options as o
from flows.cli.console import output, print_json

_STYLES = {"create": "green", "update": "yellow", "remove": "red"}


def automations(
    apply: Annotated[bool, typer.Option("--apply", help="Do it; otherwise only tell what would be done.")] = False,
    silence: Annotated[float, typer.Option(min=10, help="Seconds without heartbeat after which a run is dead.")] = 540,
    pending: Annotated[float, typer.Option(min=10, help="Seconds in which a handed-out run must begin.")] = 900,
    longest: Annotated[float, typer.Option(min=10, help="Seconds after which a run is cancelled.")] = 43_200,
    redrive_after: Annotated[float, typer.Option(min=0, help="Seconds from a crash to the redrive.")] = 120,
    as_json: o.AsJson = False,
) -> None:
    """Bring the automations of the configured Prefect server to what they should be; others are not touched.

    `UNVEIL_NOTIFY_BLOCK=TYPE/NAME` or `UNVEIL_NOTIFY_WEBHOOK=URL` says who is told of failures.

    Example:

        unveil automations --apply
    """
    from flows.automations.applying import apply_automations
    from flows.automations.definitions import Patience

    patience = Patience(silence_s=silence, pending_s=pending, longest_s=longest, redrive_after_s=redrive_after)
    lines = apply_automations(patience, dry_run=not apply)
    if as_json:
        print_json([asdict(line) for line in lines])
        return
    table = Table("automation", "done" if apply else "to do", "", title="Automations")
    for line in lines:
        style = _STYLES.get(line.change, "white")
        table.add_row(escape(line.name), f"[{style}]{line.change}[/]", "" if line.enabled else "paused")
    output.print(table)
