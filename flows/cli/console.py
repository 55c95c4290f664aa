"""What a person sees in the terminal: progress on stderr, tables, one sentence for an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from flows.progress import Event, listening
from stac.io.secrets import redact

#: Everything for people goes to stderr while a command prints JSON.
errors = Console(stderr=True, highlight=False)
output = Console(highlight=False)
#: Ids up to this length stand in one line where there is room for the words of the other columns; longer ones are
#: folded. Nothing is cut.
_ID_WIDTH, _WORD_WIDTH = 40, 15
#: Columns from which on rows have room for whole item ids.
_WIDE = 120


def print_json(document: Any) -> None:
    """Print one JSON document on stdout and nothing else."""
    sys.stdout.write(json.dumps(document, indent=2, default=_plain, allow_nan=False) + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def show(result: Any, as_json: bool, people: str | Callable[[], None]) -> None:
    """Print the result of a command.

    Args:
        result: as JSON values and dataclasses; printed as one JSON document on stdout and nothing else.
        as_json: `--json` was given.
        people: a sentence for people, or what prints the result for them.
    """
    if as_json:
        print_json(result)
    elif isinstance(people, str):
        output.print(people, markup=False)
    else:
        people()


@contextmanager
def progress_bar() -> Iterator[None]:
    """Show what is going on, on stderr, while the context is open."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        line = bar.add_task("starting", total=None)

        def show(event: Event) -> None:
            bar.update(line, description=event.text, completed=event.done, total=event.total or None)

        with listening(show):
            yield


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, ids: int | None = None
) -> None:
    """Print a table whose values wrap; nothing is cut, however narrow the terminal. Without rows nothing is printed.

    Args:
        title: above the table; none when empty.
        columns: headers.
        rows: a value for each column, `styled` or as it is.
        ids: number of a column of ids, which stand in one line where they can.
    """
    table, every = Table(title=escape(title) or None), list(rows)
    if not every:
        return
    cells = [[header, *(str(row[number]) for row in every)] for number, header in enumerate(columns)]
    words = [max(len(word) for cell in column for word in ["", *cell.split()]) for column in cells]
    taken = [word if number == ids else min(word, _WORD_WIDTH) for number, word in enumerate(words)]
    # A border and two blanks around every column.
    fits = sum(taken) <= output.width - 3 * len(columns) - 1
    for number, header in enumerate(columns):
        whole = number == ids and words[number] <= _ID_WIDTH and fits
        table.add_column(header, overflow="fold", no_wrap=whole)
    for row in every:
        table.add_row(*(value if isinstance(value, Text) else escape(str(value)) for value in row))
    output.print(table)


def styled(value: object, styles: Mapping[str, str]) -> Text:
    """Return a value in its colour."""
    return Text(str(value), styles.get(str(value), "white"))


def item_of(item_id: str, scene: str) -> str:
    """Return an item's id for a row that names its scene: in a narrow terminal without the scene's id before it."""
    return item_id if output.width >= _WIDE else item_id.removeprefix(f"{scene}-")


def print_error(message: str, *, as_json: bool, kind: str) -> None:
    """Print an error as one sentence on stderr, with `as_json` also as a document on stdout."""
    message = redact(message)
    if as_json:
        print_json({"error": {"kind": kind, "message": message}})
    errors.print(f"unveil: {message}", markup=False, soft_wrap=True)
