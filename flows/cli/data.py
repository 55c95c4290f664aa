"""Commands around training data: `unveil data check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import options as o
from flows.cli.console import output, progress_bar, show
from flows.errors import EXIT_INVALID

if TYPE_CHECKING:
    from de_model.data.check import Report

app = typer.Typer(help="Training data on disk.", no_args_is_help=True)


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder of RICE, CUHK-CR, or pairs in cloud/ and label/.")],
    names_only: Annotated[bool, typer.Option("--names-only", help="Open no picture: layout and names alone.")] = False,
    as_json: o.AsJson = False,
) -> None:
    """Name everything wrong with a data set: unpaired and broken files, wrong bands, the same image in two splits.

    Exit status 2 when something keeps the data from being used; warnings alone are 0.

    Example:

        unveil data check ~/data/C-CUHK
    """
    from de_model.data.check import check_folder
    from flows.progress import Event

    with progress_bar() as on_event:
        report = check_folder(
            folder,
            pixels=not names_only,
            on_pair=lambda done, total: on_event(Event(f"reading {folder.name}", done, total)),
        )
    show(_document(report), as_json, lambda: _print(report))
    if not report.usable:
        raise typer.Exit(EXIT_INVALID)


def _document(report: Report) -> dict[str, object]:
    return {
        "folder": str(report.folder),
        "usable": report.usable,
        "pairs": [{"dataset": c.dataset, "split": c.split, "pairs": c.pairs} for c in report.counts],
        "findings": [{"severity": f.severity, "problem": f.problem, "message": f.message} for f in report.findings],
    }


def _print(report: Report) -> None:
    for count in report.counts:
        output.print(f"{count.dataset} {count.split or ''}: {count.pairs} pairs", markup=False)
    for finding in report.findings:
        output.print(f"{finding.severity}: {finding.message}", markup=False, soft_wrap=True)
    verdict = "can be used" if report.usable else "cannot be used as it is"
    output.print(f"{report.folder} {verdict}.", markup=False, soft_wrap=True)
