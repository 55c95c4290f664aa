"""One work unit of any size, stage by stage, against a plain read of it, and one that the model restores alone.

The unit is made of the sample by mirroring it. A whole Sentinel-2 tile of five dates needs about 15 GB of disk in the
temporary folder and some ten minutes on two cores.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
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
from flows.progress import tell
from flows.settings import RunSettings
from flows.settings.loading import load_settings
from stac.grid.assets import find_asset
from stac.grid.cell import Cell, cell_of
from stac.load.stack import read_stack
from stac.product.cog import CogWriter, RasterSpec
from stac.search.opening import open_source
from stac.search.query import Query
from stac.search.static import sample_catalog

#: The cloudy date that is restored; the sample's other four dates are its donors.
_DAY, _MONTH = "2023-08-18T00:00:00Z/2023-08-18T23:59:59Z", "2023-08-01T00:00:00Z/2023-08-31T23:59:59Z"
_MASK = "scl"
#: Clouds of the thinned sample are twelve times too small here; grown by 120 m they would cover everything.
_CLOUDS = "cloud_dilation_m: 20\nshadow_dilation_m: 20\n"
#: Parts of other stages, and what goes on beside them.
_NO_STAGES = {"read", "model"}
#: Share of a unit's time that the model is asked to have where it restores all clouds.
_GOAL = 0.8
#: Grid square of the sample that is repeated, and the ground distance of its pixels in the big cell, metres.
_SQUARE, _PIXEL_M = "33TWM", 10
_ROWS = 1024


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
    pipeline: PipelineMeasurement

    @property
    def read_ratio(self) -> float:
        """Our reading, masks and their growing included, over the plain read."""
        return self.own_read / self.plain_read


def measure(side: int, model_side: int) -> UnitMeasurement:
    """Make a cell of `side` pixels of the sample and run `unveil run` on it without the model, a smaller one with it.

    Raises:
        WorkFailed: the run failed.
    """
    with tempfile.TemporaryDirectory(prefix="unveil-bench-") as name:
        run = _Run(Path(name), side, "use_model: false\n")
        tell("reading it plainly")
        plain = _plain_read(run.settings)
        tell("reading it with masks")
        own = _own_read(run.settings)
        measured, metadata = run()
    pipeline, dates = _pipeline(model_side), len(metadata["sources"])
    return UnitMeasurement(
        side, dates, measured.seconds, metadata["seconds"], own, plain, measured.peak_bytes, pipeline
    )


def _pipeline(side: int) -> PipelineMeasurement:
    with tempfile.TemporaryDirectory(prefix="unveil-bench-") as name:
        measured, metadata = _Run(Path(name), side, "prior: none\n")()
    return PipelineMeasurement(side, metadata["figures"]["tiles"], metadata["seconds"], measured.seconds)


class _Run:
    """One run on a cell made of the sample."""

    def __init__(self, folder: Path, side: int, settings: str) -> None:
        tell(f"making five dates of {side} x {side} pixels")
        source, config = str(write_big_cell(folder / "source", side)), folder / "config.yaml"
        config.write_text(settings + _CLOUDS, "utf-8")
        self._out, self._given = folder / "out", ["--source", source, "--datetime", _DAY, "--config", str(config)]
        self.settings = load_settings(config, {"source": source, "datetime": _DAY, "out": self._out})

    def __call__(self) -> tuple[Measurement, dict[str, Any]]:
        """Run it; return what the command took, and the product's metadata."""
        tell("restoring it")
        measured = run_unveil("unit", ["run", *self._given, "--out", str(self._out), "--json"])
        (metadata,) = (json.loads(path.read_text("utf-8")) for path in self._out.glob("*/*/metadata.json"))
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


def write_big_cell(folder: Path, side: int) -> Path:
    """Write a static catalog with every date of one grid square; return the path of its root document.

    Pixels are the sample's, mirrored at every repetition: textures, clouds and nodata are real and no seam shows.

    Args:
        folder: an empty folder.
        side: rows and columns of the cell, pixels.
    """
    root = sample_catalog()
    ids = sorted(path.name for path in root.parent.glob(f"*_{_SQUARE}_*"))
    for item_id in ids:
        _write_item(root.parent / item_id, folder / item_id, side)
    for name in ("catalog.json", "collection.json"):
        document = json.loads((root.parent / name).read_text("utf-8"))
        document["links"] = [l for l in document["links"] if l["rel"] != "item" or l["href"].split("/")[-2] in ids]
        (folder / name).write_text(json.dumps(document), "utf-8")
    return folder / root.name


def _write_item(source: Path, target: Path, side: int) -> None:
    document = json.loads((source / f"{source.name}.json").read_text("utf-8"))
    target.mkdir(parents=True)
    for asset in document["assets"].values():
        if not str(asset["href"]).endswith(".tif"):
            continue
        transform = _repeat(source / asset["href"], target / asset["href"], side)
        asset |= {"proj:shape": [side, side], "proj:transform": list(transform)[:6], "gsd": _PIXEL_M}
    document["properties"] |= {"gsd": _PIXEL_M}
    (target / f"{target.name}.json").write_text(json.dumps(document), "utf-8")


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


def page_of(measured: UnitMeasurement) -> Page:
    """Return the results page, a row per stage."""
    pixels, alone = measured.side**2 / 1e6, measured.pipeline
    about = (
        f"{measured.dates} dates of {measured.side} x {measured.side} pixels and four bands, made of the sample by "
        "mirroring it, restored without the model (`use_model: false`), clouds grown by 20 m. `read` goes on while "
        "other pixels are restored; `waited` is the part of it in which nothing else was done."
    )
    rows = [(name, f"{s:.1f}", f"{pixels / s:.1f}") for name, s in measured.stages.items() if s]
    whole = (
        f"The whole command, its Prefect server and the publishing included: {measured.seconds:.0f} s; peak memory of "
        f"all its processes {measured.peak_bytes / 2**30:.2f} GiB. Reading alone, with masks and their growing, took "
        f"{measured.own_read:.1f} s, {measured.read_ratio:.2f} times a plain rasterio read of the same windows."
    )
    pipeline = (
        f"**Pipeline efficiency.** {alone.side} x {alone.side} pixels made alike, their clouds restored by the model "
        f"alone (`prior: none`, {alone.tiles} tiles), take {alone.unit_seconds:.1f} s from the first pixel read to the "
        f"finished product, {alone.stages['model']:.1f} s of it in the model, which is {alone.efficiency:.2f} (goal "
        f"{goal(f'{_GOAL}', alone.efficiency >= _GOAL)}); the whole command took {alone.seconds:.0f} s. Stages, "
        f"seconds: {', '.join(f'{stage} {seconds:.1f}' for stage, seconds in alone.stages.items())}."
    )
    record = asdict(measured) | {"read_ratio": measured.read_ratio, "efficiency": alone.efficiency}
    parts = (about, table(("stage", "seconds", "megapixels/s"), rows), whole, pipeline)
    return Page("One large work unit, measured", parts, record)


if __name__ == "__main__":
    command = parser("unit", __doc__)
    command.add_argument("--size", type=int, default=10980, help="rows and columns of the unit, pixels")
    command.add_argument("--model-size", type=int, default=1024, help="the same of the unit for the model, pixels")
    chosen = command.parse_args()
    with progress_bar():
        found = measure(chosen.size, chosen.model_size)
    publish("unit", page_of(found), chosen)
