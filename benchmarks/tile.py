"""One tile from search to catalog, stage by stage, against a plain script, with few and with many dates.

    python -m benchmarks.tile --size 10980 --out docs/results
    python -m benchmarks.tile --size 2048 --dates 5 16 --rounds 1 --model-size 1024

The tile is made of the sample by mirroring it. A whole Sentinel-2 tile of five dates needs about 15 GB of disk in the
temporary folder and some ten minutes on two cores. The plain script (`benchmarks.plain`) and `unveil run` take turns on
the same files, so that both meet the same other work on the machine.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from benchmarks.measuring import Measurement, run_unveil
from benchmarks.report import Page, goal, parser, publish, table
from flows.cli.console import progress_bar
from flows.processing.blocks import regions_of, window_of
from flows.progress import report_progress
from flows.settings import RunSettings
from flows.settings.loading import load_settings
from stac.grid.assets import find_asset
from stac.grid.cell import Cell, cell_of
from stac.load.stack import read_stack
from stac.product.cog import CogWriter, RasterSpec
from stac.search.opening import open_source
from stac.search.source import Query
from stac.search.static import sample_catalog

#: The cloudy date that is restored; the sample's other four dates are its source dates.
_DAY, _MONTH = "2023-08-18T00:00:00Z/2023-08-18T23:59:59Z", "2023-08-01T00:00:00Z/2023-08-31T23:59:59Z"
_MASK = "scl"
#: Clouds of the thinned sample are twelve times too small here; grown by 120 m they would cover everything.
_CLOUDS = "cloud_dilation_m: 20\nshadow_dilation_m: 20\n"
#: Parts of other stages, and what goes on beside them.
_NO_STAGES = {"read", "model"}
#: Goals: how many times the plain script's time at most, memory, and reading times a plain read.
_MOST_TIMES, _MOST_GIB, _MOST_READ = 1.6, 2.5, 1.2
#: Share of a unit's time that the model is asked to have where it restores all clouds.
_GOAL = 0.8
#: Grid square of the sample that is repeated, and the ground distance of its pixels in the big cell, metres.
_SQUARE, _PIXEL_M = "33TWM", 10
_ROWS = 1024
#: Dates of the sample, and days that it lacks within the reach of a composite.
_SAMPLE_DATES, _FREE_DAYS = 5, (5, 6, 7, 8, 9, 11, 12, 14, 16, 17, 19, 21, 22, 23, 24, 25)


@dataclass(frozen=True, slots=True)
class PipelineMeasurement:
    """One unit whose clouds the model restores, without other dates."""

    side: int
    tiles: int
    #: Stages of the unit, seconds; `model` is a part of `restore`, and `read` goes on beside others.
    stages: Mapping[str, float]
    #: The whole command, seconds.
    seconds: float

    @property
    def unit_seconds(self) -> float:
        """From the first pixel read to the product in its folder."""
        return sum(seconds for stage, seconds in self.stages.items() if stage not in _NO_STAGES)

    @property
    def efficiency(self) -> float:
        """Share of the unit's time in which the model works."""
        return self.stages["model"] / self.unit_seconds


@dataclass(frozen=True, slots=True)
class Turn:
    """One round: the plain script, then the run."""

    #: Stages of the plain script, and all of its processor time, seconds.
    plain: Mapping[str, float]
    plain_cpu: float
    plain_peak_bytes: int
    #: Stages of the unit, and its processor time, seconds.
    stages: Mapping[str, float]
    cpu: float
    #: The whole command, its server and publishing included, seconds.
    command: float
    #: Largest sum of resident memory over the command and all it started, bytes.
    peak_bytes: int

    @property
    def plain_seconds(self) -> float:
        """From the first pixel read to the COG."""
        return sum(self.plain.values())

    @property
    def seconds(self) -> float:
        """From the first pixel read to the product in its folder."""
        return sum(seconds for stage, seconds in self.stages.items() if stage not in _NO_STAGES)


@dataclass(frozen=True, slots=True)
class TileMeasurement:
    """A tile of so many dates."""

    #: Rows and columns, pixels.
    side: int
    dates: int
    turns: tuple[Turn, ...]
    #: Reading alone, the scenes' masks and their growing included, seconds; in a run it goes on beside other work.
    own_read: float
    #: The same with the temporal check of the masks.
    checked_read: float
    #: A plain rasterio read of the same windows and files, one after the other, seconds.
    plain_read: float

    @property
    def ratio(self) -> float:
        """Our time over the plain script's, the median over the rounds."""
        return statistics.median(turn.seconds / turn.plain_seconds for turn in self.turns)

    @property
    def cpu_ratio(self) -> float:
        """The same of the processor time, which other work on the machine changes less."""
        return statistics.median(turn.cpu / turn.plain_cpu for turn in self.turns)

    @property
    def read_ratio(self) -> float:
        """Our reading, the scenes' masks and their growing included, over the plain read."""
        return self.own_read / self.plain_read

    @property
    def checked_ratio(self) -> float:
        """The same with the temporal check of the masks."""
        return self.checked_read / self.plain_read


def measure(side: int, dates: int, rounds: int) -> TileMeasurement:
    """Make a tile of the sample; run the plain script and `unveil run` without the model on it in turns.

    Raises:
        WorkFailed: a run failed.
    """
    with tempfile.TemporaryDirectory(prefix="unveil-bench-") as name:
        run = _Run(Path(name), side, "use_model: false\n", dates)
        turns = tuple(_turn(run) for _ in range(rounds))
        report_progress("reading it plainly")
        plain = _plain_read(run.settings)
        report_progress("reading it with masks")
        own, checked = (_own_read(run.settings, temporal) for temporal in (False, True))
        return TileMeasurement(side, dates, turns, own, checked, plain)


def _turn(run: _Run) -> Turn:
    report_progress("the plain script")
    command = [sys.executable, "-m", "benchmarks.plain", run.source, _DAY[:10], str(run.out.with_suffix(".tif"))]
    plain = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    shutil.rmtree(run.out, ignore_errors=True)
    measured, metadata = run()
    return Turn(
        plain["seconds"],
        plain["cpu_seconds"],
        plain["peak_bytes"],
        metadata["seconds"],
        metadata["spent"]["cpu_seconds"],
        measured.seconds,
        measured.peak_bytes,
    )


def _pipeline(side: int) -> PipelineMeasurement:
    with tempfile.TemporaryDirectory(prefix="unveil-bench-") as name:
        measured, metadata = _Run(Path(name), side, "composite: none\n")()
    return PipelineMeasurement(side, metadata["figures"]["tiles"], metadata["seconds"], measured.seconds)


class _Run:
    """One run on a cell made of the sample."""

    def __init__(self, folder: Path, side: int, settings: str, dates: int = _SAMPLE_DATES) -> None:
        report_progress(f"making {dates} dates of {side} x {side} pixels")
        self.source, config = str(write_big_cell(folder / "source", side, dates)), folder / "config.yaml"
        config.write_text(settings + _CLOUDS, "utf-8")
        self.out, self._given = folder / "out", ["--source", self.source, "--datetime", _DAY, "--config", str(config)]
        self.settings = load_settings(config, {"source": self.source, "datetime": _DAY, "out": self.out})

    def __call__(self) -> tuple[Measurement, dict[str, Any]]:
        """Run it; return what the command took, and the product's metadata."""
        report_progress("restoring it")
        measured = run_unveil("tile", ["run", *self._given, "--out", str(self.out), "--json"])
        (metadata,) = (json.loads(path.read_text("utf-8")) for path in self.out.glob("*/*/metadata.json"))
        return measured, metadata


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


def _own_read(settings: RunSettings, temporal: bool) -> float:
    """Return the seconds that a run takes for the same windows when it does nothing else."""
    items, cell = _scenes(settings)
    options = replace(settings.reading, temporal=temporal)
    began = time.monotonic()
    for rows, columns in _windows(cell, settings):
        read_stack(items, cell.window(rows, columns), settings.bands, options)
    return time.monotonic() - began


def _scenes(settings: RunSettings) -> tuple[list[pystac.Item], Cell]:
    items = open_source(settings.source).search(Query.parse(settings.collection, None, _MONTH))
    return list(items), cell_of(items[0], settings.bands[0])


def _windows(cell: Cell, settings: RunSettings) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of what a run reads at once."""
    for blocks in regions_of(cell, settings.block):
        yield window_of(blocks, cell, settings.restoration)


def write_big_cell(folder: Path, side: int, dates: int = _SAMPLE_DATES) -> Path:
    """Write a static catalog with dates of one grid square; return the path of its root document.

    Pixels are the sample's, mirrored at every repetition: textures, clouds and nodata are real and no seam shows. More
    dates than the sample's are its own once more, on days that it lacks.

    Args:
        folder: an empty folder.
        side: rows and columns of the cell, pixels.
        dates: how many.
    """
    root = sample_catalog()
    sources = sorted(path.name for path in root.parent.glob(f"*_{_SQUARE}_*"))
    ids = [
        _write_item(root.parent / sources[number % len(sources)], folder, side, number if number >= len(sources) else 0)
        for number in range(dates)
    ]
    for name in ("catalog.json", "collection.json"):
        document = json.loads((root.parent / name).read_text("utf-8"))
        document["links"] = [l for l in document["links"] if l["rel"] != "item"]
        if name == "collection.json":
            document["links"] += [{"rel": "item", "href": f"./{each}/{each}.json"} for each in ids]
        (folder / name).write_text(json.dumps(document), "utf-8")
    return folder / root.name


def _write_item(source: Path, folder: Path, side: int, number: int) -> str:
    """Write a copy of an item, a repeated one on another day; return its id."""
    document = json.loads((source / f"{source.name}.json").read_text("utf-8"))
    if number:
        day = f"2023-08-{_FREE_DAYS[number % len(_FREE_DAYS)]:02d}"
        document["id"] = source.name.replace(source.name.split("_")[2], day.replace("-", ""))
        document["properties"]["datetime"] = day + document["properties"]["datetime"][10:]
    target = folder / document["id"]
    target.mkdir(parents=True)
    for asset in document["assets"].values():
        if not str(asset["href"]).endswith(".tif"):
            continue
        transform = _repeat(source / asset["href"], target / asset["href"], side)
        asset |= {"proj:shape": [side, side], "proj:transform": list(transform)[:6], "gsd": _PIXEL_M}
    document["properties"] |= {"gsd": _PIXEL_M}
    (target / f"{target.name}.json").write_text(json.dumps(document), "utf-8")
    return target.name


def _repeat(source: Path, target: Path, side: int) -> Affine:
    with rasterio.open(source) as small:
        pixels, crs, nodata = small.read(1), small.crs, small.nodata
        transform = Affine(_PIXEL_M, 0, small.transform.c, 0, -_PIXEL_M, small.transform.f)
    spec = RasterSpec(nodata or 0, "nearest" if pixels.dtype == np.uint8 else "average")
    with CogWriter(target, GeoBox((side, side), transform, crs.to_wkt()), 1, str(pixels.dtype), spec) as cog:
        for row, rows in _bands_of_rows(pixels, side):
            cog.write(rows[None], row, 0)
        cog.finish()
    return transform


def _bands_of_rows(pixels: NDArray[Any], side: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first row, rows) of the repeated image."""
    height, width = pixels.shape
    columns = _mirrored(np.arange(side), width)
    for row in range(0, side, _ROWS):
        rows = _mirrored(np.arange(row, min(row + _ROWS, side)), height)
        yield row, pixels[np.ix_(rows, columns)]


def _mirrored(index: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Return which pixel of `length` a pixel of the repeated image is: forwards, backwards, forwards again."""
    place = index % (2 * length)
    return np.where(place < length, place, 2 * length - 1 - place)


def page_of(tiles: Sequence[TileMeasurement], alone: PipelineMeasurement | None) -> Page:
    """Return the results page: stages of the first tile, the other tiles in a line each."""
    first = tiles[0]
    turn, pixels = first.turns[-1], first.side**2 / 1e6
    about = (
        f"{first.dates} dates of {first.side} x {first.side} pixels and four bands, the sample mirrored, "
        "restored without the model (`use_model: false`), clouds grown by 20 m; six layers with pictures, quality "
        "figures and a report, published. The plain script fills the same date from the same files into one COG and "
        "does nothing else. Stages are those of the last round; `read` goes on while other pixels are restored, "
        "`waited` is the part of it in which nothing else was done."
    )
    stages = [(name, f"{s:.1f}", f"{pixels / s:.1f}") for name, s in turn.stages.items() if s]
    plain = [(f"plain script: {name}", f"{s:.1f}", f"{pixels / s:.1f}") for name, s in turn.plain.items()]
    rows = [_row(tile) for tile in tiles]
    head = ("dates", "tile, s", "plain script, s", "times", "processor", "command, s", "peak, GiB", "read", "checked")
    verdict = (
        f"Goals for {first.dates} dates: {goal(f'{_MOST_TIMES}', first.ratio <= _MOST_TIMES)} times the plain script, "
        f"{goal(f'{_MOST_GIB} GiB', max(t.peak_bytes for t in first.turns) <= _MOST_GIB * 2**30)}, reading "
        f"{goal(f'{_MOST_READ}', first.read_ratio <= _MOST_READ)} times a plain rasterio read of the same windows "
        "(`read`; `checked` with the temporal check of the masks, which is part of the tile). `processor` compares "
        "processor seconds, which other work on the machine changes less; `command` includes start and publishing."
    )
    parts = [about, table(("stage", "seconds", "megapixels/s"), [*stages, *plain]), table(head, rows), verdict]
    if len(tiles) > 1:
        few, many = (statistics.median(turn.seconds for turn in tile.turns) for tile in tiles[-2:])
        parts.append(f"{tiles[-1].dates} dates take {many / few:.1f} times as long as {tiles[-2].dates}.")
    record: dict[str, Any] = {"tiles": [asdict(tile) for tile in tiles]}
    if alone is not None:
        parts.append(_pipeline_text(alone))
        record["pipeline"] = asdict(alone) | {"efficiency": alone.efficiency}
    return Page("A whole tile", tuple(parts), record)


def _row(tile: TileMeasurement) -> tuple[object, ...]:
    def middle(value: Callable[[Turn], float]) -> float:
        return statistics.median(map(value, tile.turns))

    return (
        tile.dates,
        f"{middle(lambda t: t.seconds):.1f}",
        f"{middle(lambda t: t.plain_seconds):.1f}",
        f"{tile.ratio:.2f}",
        f"{tile.cpu_ratio:.2f}",
        f"{middle(lambda t: t.command):.0f}",
        f"{max(t.peak_bytes for t in tile.turns) / 2**30:.2f}",
        f"{tile.read_ratio:.2f}",
        f"{tile.checked_ratio:.2f}",
    )


def _pipeline_text(alone: PipelineMeasurement) -> str:
    return (
        f"**Pipeline efficiency.** {alone.side} x {alone.side} pixels made alike, their clouds restored by the model "
        f"alone (`composite: none`, {alone.tiles} tiles), take {alone.unit_seconds:.1f} s from the first pixel read to "
        f"the product, {alone.stages['model']:.1f} s of it in the model, which is {alone.efficiency:.2f} (goal "
        f"{goal(f'{_GOAL}', alone.efficiency >= _GOAL)}); the whole command took {alone.seconds:.0f} s. Stages, "
        f"seconds: {', '.join(f'{stage} {seconds:.1f}' for stage, seconds in alone.stages.items())}."
    )


if __name__ == "__main__":
    command = parser("tile", __doc__)
    command.add_argument("--size", type=int, default=5490, help="rows and columns of the tile, pixels")
    command.add_argument("--dates", type=int, nargs="+", default=[5], help="how many dates; a tile is made for each")
    command.add_argument("--rounds", type=int, default=2, help="how often each tile is made")
    command.add_argument("--model-size", type=int, default=0, help="also measure a unit of the model of this size")
    chosen = command.parse_args()
    with progress_bar():
        found = [measure(chosen.size, dates, chosen.rounds) for dates in chosen.dates]
        alone = _pipeline(chosen.model_size) if chosen.model_size else None
    publish("tile", page_of(found, alone), chosen)
