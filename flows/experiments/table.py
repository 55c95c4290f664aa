"""What an experiment found, as a table: columns with a meaning, rows of values and intervals."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from de_model.metrics.bootstrap import Interval
from flows.errors import WorkFailed

#: An interval stands for three columns of the CSV: mean, low, high.
Cell = str | int | float | Interval


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    #: What people read; the CSV uses it with underscores.
    title: str
    #: Digits after the point, of floats.
    digits: int = 2
    #: Whether its cells are intervals.
    interval: bool = False
    #: Whether a plus sign is written before gains.
    signed: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the CSV."""
        name = self.title.casefold().replace(",", "").replace(" ", "_")
        return (name, f"{name}_low", f"{name}_high") if self.interval else (name,)

    def shown(self, cell: Cell) -> str:
        """Return a cell as people read it; `-` where nothing is defined."""
        if isinstance(cell, Interval):
            if math.isnan(cell.low):
                return self._number(cell.mean)
            return f"{self._number(cell.mean)} ({self._number(cell.low)} to {self._number(cell.high)})"
        return self._number(cell) if isinstance(cell, float) else str(cell)

    def _number(self, value: float) -> str:
        if math.isnan(value):
            return "-"
        return f"{value:{'+' if self.signed else ''}.{self.digits}f}"


def in_words(interval: Interval, digits: int = 2) -> str:
    """Return a gain with its interval as it stands in a sentence: `+0.12 (+0.05 to +0.20)`."""
    return Column("", digits, interval=True, signed=True).shown(interval)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of results.

    Raises:
        WorkFailed: a row has another number of cells than there are columns.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise WorkFailed(f"Row {row[:1]} has {len(row)} cells for {len(self.columns)} columns.")

    def markdown(self) -> str:
        """Return the table for a results page."""
        lines = [[c.title for c in self.columns], ["---"] * len(self.columns)]
        lines += [[c.shown(cell) for c, cell in zip(self.columns, row, strict=True)] for row in self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def csv(self) -> str:
        """Return the table for machines, with all digits; empty where nothing is defined."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([name for column in self.columns for name in column.names])
        writer.writerows([_plain(value) for cell in row for value in _values(cell)] for row in self.rows)
        return text.getvalue()

    def column(self, title: str) -> list[Cell]:
        """Return the cells of a column, top to bottom."""
        place = [column.title for column in self.columns].index(title)
        return [row[place] for row in self.rows]

    def records(self) -> list[dict[str, str | int | float | None]]:
        """Return the rows as JSON objects, named as in the CSV; null where nothing is defined."""
        names = [name for column in self.columns for name in column.names]
        return [dict(zip(names, _finite(row), strict=True)) for row in self.rows]


def _values(cell: Cell) -> Iterator[str | int | float]:
    if isinstance(cell, Interval):
        yield from (cell.mean, cell.low, cell.high)
    else:
        yield cell


def _plain(value: str | int | float) -> str | int:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def _finite(row: Sequence[Cell]) -> Iterator[str | int | float | None]:
    for cell in row:
        for value in _values(cell):
            yield None if isinstance(value, float) and not math.isfinite(value) else value
