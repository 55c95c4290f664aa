"""Measure one work unit of any size, stage by stage, against a plain read of the same pixels."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pystac
import rasterio
from rasterio.windows import Window

from flows.bench.big_cell import write_big_cell
from flows.bench.demo import measure
from flows.bench.machine import machine
from flows.blockwise import regions_of, window_of
from flows.loading import load_settings
from flows.progress import tell
from flows.settings import RunSettings
from stac.assets import find_asset
from stac.grid import Cell, cell_of
from stac.query import Query
from stac.sources import open_source
from stac.stack import read_stack

#: The cloudy date that is restored; the sample's other four dates are its donors.
_DAY, _MONTH = "2023-08-18T00:00:00Z/2023-08-18T23:59:59Z", "2023-08-01T00:00:00Z/2023-08-31T23:59:59Z"
_MASK = "scl"


@dataclass(frozen=True, slots=True)
class UnitMeasurement:
    """One unit, from search to catalog."""

    #: Rows and columns, pixels.
    side: int
    dates: int
    #: The whole command, seconds.
    seconds: float
    #: Stages of the unit, seconds.
    stages: Mapping[str, float]
    #: Reading alone, masks and their growing included, seconds; in the run it goes on while pixels are restored.
    own_read: float
    #: A plain rasterio read of the same windows and files, one after the other, seconds.
    plain_read: float
    #: Largest sum of resident memory over the command and all it started, bytes.
    peak_bytes: int

    @property
    def read_ratio(self) -> float:
        """Our reading, masks and their growing included, over the plain read."""
        return self.own_read / self.plain_read


def bench_unit(side: int) -> UnitMeasurement:
    """Make a cell of `side` pixels from the sample and run `unveil run` on it, without the model.

    Raises:
        WorkFailed: the run failed.
    """
    with tempfile.TemporaryDirectory(prefix="unveil-bench-") as name:
        folder = Path(name)
        tell(f"making five dates of {side} x {side} pixels")
        source, out = str(write_big_cell(folder / "source", side)), folder / "out"
        config = folder / "config.yaml"
        # Clouds of the thinned sample are twelve times too small here; grown by 120 m they would cover everything.
        config.write_text("use_model: false\ncloud_dilation_m: 20\nshadow_dilation_m: 20\n", "utf-8")
        settings = load_settings(config, {"source": source, "datetime": _DAY, "out": out})
        tell("reading it plainly")
        plain = _plain_read(settings)
        tell("reading it with masks")
        own = _own_read(settings)
        tell("restoring it")
        arguments = ["--source", source, "--datetime", _DAY, "--out", str(out), "--config", str(config), "--json"]
        measured = measure("unit", ["run", *arguments])
        (metadata,) = (json.loads(path.read_text("utf-8")) for path in out.glob("*/*/metadata.json"))
    dates = len(metadata["sources"])
    return UnitMeasurement(side, dates, measured.seconds, metadata["seconds"], own, plain, measured.peak_bytes)


def _plain_read(settings: RunSettings) -> float:
    """Return the seconds that rasterio takes for the windows of the unit, file after file."""
    items, cell = _scenes(settings)
    began = time.monotonic()
    for rows, columns in _windows(cell, settings):
        window = Window.from_slices((rows.start, rows.stop), (columns.start, columns.stop))
        for item in items:
            for band in (*settings.bands, _MASK):
                with rasterio.open(find_asset(item, band).get_absolute_href()) as file:
                    file.read(1, window=window)
    return time.monotonic() - began


def _own_read(settings: RunSettings) -> float:
    """Return the seconds that a run takes for the same windows when it does nothing else."""
    items, cell = _scenes(settings)
    began = time.monotonic()
    for rows, columns in _windows(cell, settings):
        read_stack(items, cell.window(rows, columns), settings.bands, settings.reading)
    return time.monotonic() - began


def _scenes(settings: RunSettings) -> tuple[list[pystac.Item], Cell]:
    items = open_source(settings.source).search(Query.parse(settings.collection, None, _MONTH))
    return list(items), cell_of(items[0], settings.bands[0])


def _windows(cell: Cell, settings: RunSettings) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of what a run reads at once."""
    for blocks in regions_of(cell, settings.block):
        yield window_of(blocks, cell, settings.restoration)


def as_markdown(measured: UnitMeasurement) -> str:
    """Return a results page: machine, date, command and a row per stage."""
    pixels = measured.side**2 / 1e6
    rows = "\n".join(
        f"| {stage} | {seconds:.1f} | {pixels / seconds:.1f} |" for stage, seconds in measured.stages.items() if seconds
    )
    return (
        "# One large work unit, measured\n\n"
        f"Command: `unveil bench unit --size {measured.side} --out docs/results`; {datetime.now(UTC):%Y-%m-%d}; "
        f"{machine()}.\n\n"
        f"{measured.dates} dates of {measured.side} x {measured.side} pixels and four bands, made of the sample by "
        "mirroring it, restored without the model (`use_model: false`), clouds grown by 20 m. `read` goes on while "
        "other pixels are restored; `waited` is the part of it in which nothing else was done.\n\n"
        "| stage | seconds | megapixels/s |\n|---|---|---|\n" + rows + "\n\n"
        f"The whole command, its Prefect server and the publishing included: {measured.seconds:.0f} s; peak memory of "
        f"all its processes {measured.peak_bytes / 2**30:.2f} GiB. Reading alone, with masks and their growing, took "
        f"{measured.own_read:.1f} s, {measured.read_ratio:.2f} times a plain rasterio read of the same windows.\n"
    )
