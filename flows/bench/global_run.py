"""A global Sentinel-2 run on paper: what it would take, from measured figures and named assumptions."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from flows.errors import InvalidSettings

_DAY_S, _YEAR_D, _TB = 86_400, 365, 1e12
_TILE_PIXELS = 10_980**2


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of the pages in docs/results, each made by the command that its page names."""

    #: unit.md: a whole tile without the model, publishing included, seconds; of that, reading; and its dates.
    unit_seconds: float
    read_seconds: float
    unit_dates: float
    #: unit.md: cores of that machine, and peak memory, GiB.
    unit_cores: float
    unit_gib: float
    #: model.md: CNP + WA of the small preset, one step on 256 x 256 px, seconds of one thread, and Gflop.
    step_seconds: float
    step_gflop: float
    #: engine.md: percent of a scene's area in tiles that run by default, for the small gaps that lie all over it.
    tiles_percent: float
    #: publishing.md: seconds under the lock for one more item in the largest catalog; documents above its items, MB.
    locked_seconds: float
    above_items: float
    above_megabytes: float
    #: ledger.md: milliseconds of a unit's whole life in the longest SQLite ledger; None where it was not measured yet.
    ledger_ms: float | None


#: Where each figure stands: page, and a pattern whose last match is it.
_PLACES: dict[str, tuple[str, str]] = {
    "unit_seconds": ("unit", r"publishing included: ([\d.]+) s"),
    "read_seconds": ("unit", r"^\| read \| ([\d.]+) \|"),
    "unit_dates": ("unit", r"^(\d+) dates of 10980 x 10980"),
    "unit_cores": ("unit", r", (\d+) cores,"),
    "unit_gib": ("unit", r"processes ([\d.]+) GiB"),
    "step_seconds": ("model", r"^\| small \| CNP \+ WA, one step \| 1 of 256 px \| ([\d.]+) \|"),
    "step_gflop": ("model", r"^\| small \| CNP \+ WA, one step \| 1 of 256 px \| [\d.]+ \| ([\d.]+) \|"),
    "tiles_percent": ("engine", r"whose tiles cover (\d+)%"),
    "locked_seconds": ("publishing", r"^\| [\d,]+ \| [\d.]+ \| ([\d.]+) \|"),
    "above_items": ("publishing", r"^\| items in the end \| ([\d,]+) \|"),
    "above_megabytes": ("publishing", r"^\| documents above the items, together \| [\d,]+, ([\d.]+) MB"),
    "ledger_ms": ("ledger", r"^\| SQLite \| [\d,]+ \| [\d,.]+ \| ([\d.]+) \|"),
}


def measured_in(folder: Path) -> Measured:
    """Read the figures from the pages of results.

    Args:
        folder: docs/results, or one with pages of another machine.

    Raises:
        InvalidSettings: a page is missing, or does not say what it did.
    """
    found = {
        name: _figure(folder / f"{page}.md", pattern)
        for name, (page, pattern) in _PLACES.items()
        if name != "ledger_ms"
    }
    page, pattern = _PLACES["ledger_ms"]
    place = folder / f"{page}.md"
    return Measured(ledger_ms=_figure(place, pattern) if place.is_file() else None, **found)


def _figure(page: Path, pattern: str) -> float:
    try:
        found = re.findall(pattern, page.read_text("utf-8"), re.MULTILINE)
        return float(found[-1].replace(",", ""))
    except (OSError, IndexError, ValueError) as error:
        raise InvalidSettings(
            f"{page} does not tell what a global run is reckoned from; make it with `unveil bench {page.stem}`."
        ) from error


@dataclass(frozen=True, slots=True)
class Assumed:
    """What nobody measured here. Change it to what you know."""

    #: Tiles of the Sentinel-2 grid with land, and days between two acquisitions of one with both satellites.
    land_tiles: float = 19_000.0
    revisit_days: float = 5.0
    #: Acquisitions with 5 to 80 % cloud, the defaults of `min_cloud` and `max_cloud`.
    cloudy_share: float = 0.5
    #: Dates of a unit: the target and those within 15 days.
    dates: float = 7.0
    #: Range requests for one window of one file.
    requests_per_window: float = 4.0
    #: Useful bf16 arithmetic of a GPU, Tflop/s: 0.30 of the 790 that matrix products reach on an H200; a goal.
    gpu_tflops: float = 237.0
    #: Bytes of a product per pixel: four bands of 16 bits, classes, dates, weights, uncertainty, pictures, compressed.
    product_bytes_per_pixel: float = 14.0
    #: Bytes of an item's JSON document.
    item_bytes: float = 30_000.0
    #: Prices: a core and a GPU for an hour, a terabyte for a month; any currency.
    core_hour: float = 0.04
    gpu_hour: float = 3.0
    terabyte_month: float = 20.0


@dataclass(frozen=True, slots=True)
class Demand:
    """What a day of the whole land takes."""

    units: float
    core_hours: float
    #: Of the model, where it runs on the same cores; where it runs on GPUs, GPU-hours instead.
    model_core_hours: float
    gpu_hours: float
    requests_per_s: float
    terabytes: float
    catalog_gigabytes: float
    #: Share of the day in which the catalog is locked by publishers, and the ledger is written (None: not measured).
    lock_share: float
    ledger_share: float | None

    def cost(self, assumed: Assumed, *, gpu: bool) -> float:
        """Return the money for computing one day of acquisitions, without storage."""
        model = self.gpu_hours * assumed.gpu_hour if gpu else self.model_core_hours * assumed.core_hour
        return self.core_hours * assumed.core_hour + model


def demand_of(measured: Measured, assumed: Assumed, *, samples: int = 2, steps: int = 1) -> Demand:
    """Return what a day takes.

    Formulas: units = tiles / revisit x cloudy share. Core-hours = units x seconds x cores, with reading scaled to the
    dates. Model: pixels x share in tiles that run x samples x steps x cost of a pixel and step.

    Args:
        measured: figures of docs/results.
        assumed: all else.
        samples: of the model per tile.
        steps: evaluations per sample.
    """
    units = assumed.land_tiles / assumed.revisit_days * assumed.cloudy_share
    seconds = measured.unit_seconds + measured.read_seconds * (assumed.dates / measured.unit_dates - 1)
    evaluations = units * _TILE_PIXELS * measured.tiles_percent / 100 * samples * steps / 256**2
    windows = (-(-10_980 // 2048)) ** 2 * assumed.dates * 5  # four bands and a mask
    above = measured.above_megabytes * 1e6 / measured.above_items
    return Demand(
        units=units,
        core_hours=units * seconds * measured.unit_cores / 3600,
        model_core_hours=evaluations * measured.step_seconds / 3600,
        gpu_hours=evaluations * measured.step_gflop / (assumed.gpu_tflops * 1000) / 3600,
        requests_per_s=units * windows * assumed.requests_per_window / _DAY_S,
        terabytes=units * _TILE_PIXELS * assumed.product_bytes_per_pixel / _TB,
        catalog_gigabytes=units * (assumed.item_bytes + above) / 1e9,
        lock_share=units * measured.locked_seconds / _DAY_S,
        ledger_share=None if measured.ledger_ms is None else units * measured.ledger_ms / 1000 / _DAY_S,
    )


def as_markdown(measured: Measured, assumed: Assumed) -> str:
    """Return the page: what comes out, and what went in."""
    day = demand_of(measured, assumed)
    cpu, gpu = (day.cost(assumed, gpu=on_gpu) for on_gpu in (False, True))
    year, cores = day.terabytes * _YEAR_D, measured.unit_cores
    workers = day.core_hours / 24 / cores
    written = "not measured" if day.ledger_share is None else f"{day.ledger_share:.3%}"
    rows = [
        ("units a day", f"{day.units:,.0f}", f"{day.units * _YEAR_D:,.0f} a year"),
        ("core-hours a day, without the model", f"{day.core_hours:,.0f}", f"{day.core_hours / 24:,.0f} cores at work"),
        (
            "core-hours a day of the model on CPUs",
            f"{day.model_core_hours:,.0f}",
            f"{day.model_core_hours / 24:,.0f} cores",
        ),
        ("or GPU-hours a day of the model", f"{day.gpu_hours:,.1f}", "at least: a small network does not fill a GPU"),
        (
            "memory of their workers, GiB",
            f"{workers * measured.unit_gib:,.0f}",
            f"{workers:,.0f} workers of {cores:.0f} cores",
        ),
        ("requests/s on the sources", f"{day.requests_per_s:,.0f}", "all sources together"),
        ("products, TB a day", f"{day.terabytes:,.2f}", f"{year:,.0f} TB a year"),
        (
            "catalog, GB of JSON a day",
            f"{day.catalog_gigabytes:,.2f}",
            f"{day.catalog_gigabytes * _YEAR_D:,.0f} GB a year",
        ),
        ("catalog locked, share of the day", f"{day.lock_share:.1%}", "one folder, one publisher at a time"),
        ("ledger written, share of the day", written, "SQLite, one process"),
        ("computing a day, on CPUs alone", f"{cpu:,.0f}", f"{1000 * cpu / day.units:,.0f} for 1000 units"),
        ("computing a day, the model on GPUs", f"{gpu:,.0f}", f"{1000 * gpu / day.units:,.0f} for 1000 units"),
        ("storage of one year's products, a month", f"{year * assumed.terabyte_month:,.0f}", ""),
    ]
    lines = [
        "# A global Sentinel-2 run, on paper",
        "",
        f"Command: `unveil bench global --out docs/results`; {datetime.now(UTC):%Y-%m-%d}. Nothing was run: this is",
        "arithmetic (`flows/bench/global_run.py`) on the figures below.",
        "",
        "| every day | | |",
        "|---|---|---|",
        *(f"| {name} | {value} | {note} |" for name, value, note in rows),
        "",
        "| measured here (docs/results) | |",
        "|---|---|",
        *_inputs(measured),
        "",
        "| assumed, not measured | |",
        "|---|---|",
        *_inputs(assumed),
        "",
    ]
    return "\n".join(lines)


def _inputs(given: Measured | Assumed) -> list[str]:
    values = {field.name: getattr(given, field.name) for field in fields(given)}
    return [f"| `{name}` | {'not measured' if value is None else f'{value:,.6g}'} |" for name, value in values.items()]
