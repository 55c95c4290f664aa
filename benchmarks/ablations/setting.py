"""What an ablation may look at, how much it may spend, and the table it returns."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.chart import Panel
from benchmarks.report import finite, table
from de_model import checkpoint
from de_model.metrics.bootstrap import Interval
from de_model.presets import Preset
from flows.planning.search import SceneSet

#: Listing of the places that the shipped weights were trained on.
SHIPPED_PLACES = Path(checkpoint.__file__).parent / "weights" / "places.yaml"


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation over trainings that differ in their seed."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of one value or more; a single one has no deviation (NaN)."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else math.nan)


#: An interval stands for three columns of the CSV: mean, low, high; a spread for mean and deviation.
Cell = str | int | float | Interval | Spread


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    #: What people read; the CSV uses it with underscores.
    title: str
    #: Digits after the point, of floats.
    digits: int = 2
    #: Whether its cells are intervals, or spreads.
    interval: bool = False
    spread: bool = False
    #: Whether a plus sign is written before gains.
    signed: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the CSV."""
        name = self.title.casefold().replace(",", "").replace(" ", "_")
        if self.spread:
            return name, f"{name}_deviation"
        return (name, f"{name}_low", f"{name}_high") if self.interval else (name,)

    def shown(self, cell: Cell) -> str:
        """Return a cell as people read it; `-` where nothing is defined."""
        if isinstance(cell, Interval):
            ends = "" if math.isnan(cell.low) else f" ({self._number(cell.low)} to {self._number(cell.high)})"
            return f"{self._number(cell.mean)}{ends}"
        if isinstance(cell, Spread):
            around = "" if math.isnan(cell.deviation) else f" ± {cell.deviation:.{self.digits}f}"
            return f"{self._number(cell.mean)}{around}"
        return self._number(cell) if isinstance(cell, float) else str(cell)

    def _number(self, value: float) -> str:
        return "-" if math.isnan(value) else f"{value:{'+' if self.signed else ''}.{self.digits}f}"


def in_words(interval: Interval, digits: int = 2) -> str:
    """Return a gain with its interval as it stands in a sentence: `+0.12 (+0.05 to +0.20)`."""
    return Column("", digits, interval=True, signed=True).shown(interval)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of results; rows have a cell per column."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def markdown(self) -> str:
        """Return the table for a results page."""
        rows = [[c.shown(cell) for c, cell in zip(self.columns, row, strict=True)] for row in self.rows]
        return table([c.title for c in self.columns], rows)

    def records(self) -> list[dict[str, str | int | float | None]]:
        """Return the rows as JSON objects, named as in the CSV; null where nothing is defined."""
        names = [name for column in self.columns for name in column.names]
        return [finite(dict(zip(names, _values(row), strict=True))) for row in self.rows]

    def csv(self) -> str:
        """Return the table for machines; empty where nothing is defined."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([name for column in self.columns for name in column.names])
        writer.writerows(["" if v is None else _digits(v) for v in row.values()] for row in self.records())
        return text.getvalue()


def _values(row: tuple[Cell, ...]) -> Iterator[str | int | float]:
    for cell in row:
        if isinstance(cell, Spread):
            yield from (cell.mean, cell.deviation)
        else:
            yield from (cell.mean, cell.low, cell.high) if isinstance(cell, Interval) else (cell,)


def _digits(value: str | int | float) -> str | int:
    return f"{value:.6g}" if isinstance(value, float) else value


@dataclass(frozen=True, slots=True)
class Setting:
    """What an ablation may look at and how much it may spend; equal settings give equal results."""

    #: Weights that are judged where nothing is trained.
    weights: Path
    seed: int = 0
    #: Hold-out windows, and their side in pixels.
    windows: int = 8
    side: int = 128
    #: Steps of each stage where something is trained, and the size of what is trained.
    steps: int = 300
    preset: Preset = Preset.TINY
    #: Scenes trained on, and scenes of other ground that are judged.
    train: SceneSet = field(default_factory=lambda: SceneSet(cells=("MGRS-33TWM",)))
    hold_out: SceneSet = field(default_factory=lambda: SceneSet(cells=("MGRS-33TWL",)))
    #: Folder of RICE, CUHK-CR, SEN12MS-CR or pairs, for `cross-data`; of the listing's imagery, for `fields`.
    data: Path | None = None
    #: Listing of places, trainings that differ in their seed, and the folder that keeps them, for `fields`.
    places: Path = SHIPPED_PLACES
    seeds: int = 3
    work: Path | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """What came of an ablation."""

    table: Table
    panels: tuple[Panel, ...]
    #: What was looked at and how, for people.
    method: str
    #: What is seen, derived from the table.
    seen: str
