"""Write a product block by block, with running statistics of its values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum, unique
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from stac.errors import InvalidInput
from stac.io.cores import cores
from stac.masks.classes import among
from stac.product.cog import CogWriter, RasterSpec, rgb_of
from stac.product.layers import INTERPOLATED_WEIGHT, RESTORED, SOURCE_DATE_NODATA, ProductLayers, Provenance, picked
from stac.product.preview import PICTURE_PX, RGB, visual, write_quicklook, write_thumbnail
from stac.reflectance import PRODUCT_NODATA, PRODUCT_SCALE


class BandTally:
    """Statistics of the valid pixels of one band; the order of its windows does not matter."""

    def __init__(self, nodata: float) -> None:
        self._nodata = nodata
        self._pixels = self._valid = 0
        self._sum = self._squares = 0.0
        self._least, self._most = np.inf, -np.inf

    def add(self, pixels: NDArray[Any]) -> None:
        """Count a window, any shape."""
        valid = np.isfinite(pixels) if np.isnan(self._nodata) else pixels != self._nodata
        known = pixels.ravel() if valid.all() else pixels[valid]
        self._pixels += pixels.size
        self._valid += known.size
        if known.size:
            values = known.astype(np.float64)
            self._sum += float(values.sum())
            self._squares += float(np.einsum("i,i->", values, values))
            self._least, self._most = min(self._least, float(known.min())), max(self._most, float(known.max()))

    @property
    def mean(self) -> float:
        """Mean of the valid pixels; 0 without any."""
        return self._sum / self._valid if self._valid else 0.0

    @property
    def statistics(self) -> dict[str, float]:
        """Minimum, maximum, mean, stddev and valid_percent as STAC names them; only the last without valid pixels."""
        percent = {"valid_percent": round(100 * self._valid / self._pixels, 4) if self._pixels else 0.0}
        if not self._valid:
            return percent
        variance = max(self._squares / self._valid - self.mean**2, 0.0)
        numbers = {"minimum": self._least, "maximum": self._most, "mean": self.mean, "stddev": variance**0.5}
        return {name: round(value, 6) for name, value in numbers.items()} | percent


@unique
class Layer(StrEnum):
    """The rasters of a product: keys of its assets and names of its files."""

    VISUAL = "visual"
    DATA = "data"
    PROVENANCE = "provenance"
    SOURCE_DATE = "source_date"
    REFERENCE_WEIGHT = "reference_weight"
    UNCERTAINTY = "uncertainty"

    @property
    def file_name(self) -> str:
        """Name of the layer's file."""
        return f"{self}.tif"


#: Those that pictures are made of.
_PICTURED = (Layer.VISUAL, Layer.PROVENANCE)
#: How each layer is stored.
SPECS: dict[Layer, RasterSpec] = {
    Layer.VISUAL: RasterSpec(0, rgb=True),
    Layer.DATA: RasterSpec(PRODUCT_NODATA, scale=PRODUCT_SCALE),
    Layer.PROVENANCE: RasterSpec(
        Provenance.NODATA, "nearest", ("provenance",), colors={p.value: rgb_of(p.color) for p in Provenance}
    ),
    Layer.SOURCE_DATE: RasterSpec(SOURCE_DATE_NODATA, "nearest", ("source_date",)),
    # Overviews hold values that a pixel has: a mean would be no half-width, and no longer in the steps that files are
    # small by; and a weight of 1 says more than one of 0.9.
    Layer.REFERENCE_WEIGHT: RasterSpec(np.nan, "nearest", ("reference_weight",)),
    Layer.UNCERTAINTY: RasterSpec(np.nan, "nearest"),
}
DTYPES: dict[Layer, str] = {
    Layer.VISUAL: "uint8",
    Layer.DATA: "uint16",
    Layer.PROVENANCE: "uint8",
    Layer.SOURCE_DATE: "int32",
    Layer.REFERENCE_WEIGHT: "float32",
    Layer.UNCERTAINTY: "float32",
}


@dataclass(frozen=True, slots=True)
class ProductSummary:
    """What an item and a report say about a product's pixels."""

    geobox: GeoBox
    #: Common names in the order of `data`.
    bands: tuple[str, ...]
    #: Pixels of every provenance class.
    counts: Mapping[Provenance, int]
    #: Statistics of every band of every layer.
    statistics: Mapping[Layer, tuple[Mapping[str, float], ...]]
    #: Mean half-width of the 90 % interval over restored pixels, reflectance; 0 without any.
    mean_uncertainty: float
    #: Mean W over the pixels the model restored; 0 without any.
    mean_reference_weight: float
    #: Pixels that were interpolated from the ground around, of those of class `REFERENCE_FILLED`.
    interpolated: int = 0

    @property
    def pixels_by_filler(self) -> dict[str, int]:
        """Pixels that other dates, the ground around and the model filled."""
        model = sum(
            self.counts[p] for p in (Provenance.THIN_CLOUD_CORRECTED, Provenance.REFERENCE_FILLED, Provenance.GENERATED)
        )
        return {
            "composite": self.counts[Provenance.OTHER_DATES],
            "interpolated": self.interpolated,
            "model": model - self.interpolated,
        }

    @property
    def areas_km2(self) -> dict[str, float]:
        """Area of every provenance class in square kilometres, by lower-case class name."""
        return {p.name.lower(): round(self.counts[p] * self.pixel_km2, 4) for p in Provenance}

    @property
    def pixel_km2(self) -> float:
        """Area of a pixel, square kilometres."""
        resolution = self.geobox.resolution
        return abs(float(resolution.x) * float(resolution.y)) / 1e6


class ProductWriter:
    """Takes a product window by window and makes its files, an existing folder's; a context.

    Windows may come in any order and from any thread, one at a time. Nothing but finished files is left behind. What
    cannot be written raises `DiskFull` or `NotWritable`.
    """

    def __init__(self, geobox: GeoBox, bands: tuple[str, ...], folder: Path) -> None:
        """Begin the files.

        Args:
            geobox: the product's pixels.
            bands: common names in the order of `data`.
            folder: where to.
        """
        self._geobox, self._folder, self._tally = geobox, folder, _Tally(bands)
        with ExitStack() as opened:
            self._writers = {layer: opened.enter_context(_writer(layer, geobox, bands, folder)) for layer in Layer}
            self._opened = opened.pop_all()

    def __enter__(self) -> ProductWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def add(self, window: ProductLayers) -> None:
        """Write a window of the product."""
        pixels, (row, column) = _rasters(window), _place(window.geobox, self._geobox)
        for layer, writer in self._writers.items():
            writer.write(pixels[layer], row, column)
        self._tally.add(pixels)

    def finish(self, before: NDArray[np.uint16] | None) -> ProductSummary:
        """Make COGs of all layers, and the pictures.

        Args:
            before: the target as it was, reflectance / 1e-4 `(band, y, x)`, whole or thinned, for the quicklook;
                None makes no quicklook.

        Raises:
            DiskFull: there is no room.
            NotWritable: the folder cannot be written.
            InvalidInput: the windows do not cover the product once.
        """
        counts, shape = self._tally.counts, self._geobox.shape
        if sum(counts.values()) != shape[0] * shape[1]:
            raise InvalidInput(f"The windows hold {sum(counts.values())} pixels, the product {shape}.")
        earlier = None if before is None else visual(before, self._tally.bands)
        # As many files at once as there are cores: much of it is done by one thread, and each file takes memory.
        with ThreadPoolExecutor(min(len(Layer), cores()), thread_name_prefix="write") as pool:
            made = {
                layer: pool.submit(self._writers[layer].finish)
                for layer in sorted(Layer, key=_PICTURED.__contains__, reverse=True)
            }
            for layer in _PICTURED:
                made[layer].result()
            _write_pictures(self._folder, earlier, counts)
            for done in made.values():
                done.result()
        return self._tally.summary(self._geobox)


def write_product(
    windows: Iterable[ProductLayers],
    geobox: GeoBox,
    bands: tuple[str, ...],
    before: NDArray[np.uint16] | None,
    folder: Path,
) -> ProductSummary:
    """Write a product whose windows are there, in any order; arguments and errors are those of `ProductWriter`."""
    with ProductWriter(geobox, bands, folder) as product:
        for window in windows:
            product.add(window)
        return product.finish(before)


def bands_of(layer: Layer, bands: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of a layer's bands in file order."""
    if layer is Layer.VISUAL:
        return RGB
    return bands if layer in (Layer.DATA, Layer.UNCERTAINTY) else (str(layer),)


def _writer(layer: Layer, geobox: GeoBox, bands: tuple[str, ...], folder: Path) -> CogWriter:
    names, spec = bands_of(layer, bands), SPECS[layer]
    if names is bands:
        spec = replace(spec, descriptions=bands)
    return CogWriter(folder / layer.file_name, geobox, len(names), DTYPES[layer], spec)


def _rasters(layers: ProductLayers) -> dict[Layer, NDArray[Any]]:
    """Return every layer as `(band, y, x)`."""
    return {
        Layer.VISUAL: visual(layers.data, layers.bands),
        Layer.DATA: layers.data,
        Layer.PROVENANCE: layers.provenance[None],
        Layer.SOURCE_DATE: layers.source_date[None],
        Layer.REFERENCE_WEIGHT: layers.reference_weight[None],
        Layer.UNCERTAINTY: layers.uncertainty,
    }


def _place(window: GeoBox, whole: GeoBox) -> tuple[int, int]:
    """Return row and column of a window's first pixel in the product."""
    column, row = whole.wld2pix(window.affine.c, window.affine.f)
    return round(row), round(column)


def _write_pictures(folder: Path, before: NDArray[np.uint8] | None, counts: Mapping[Provenance, int]) -> None:
    after, classes = (_thinned(folder / layer.file_name) for layer in _PICTURED)
    write_thumbnail(folder / "thumbnail.png", after)
    if before is not None:
        write_quicklook(folder / "quicklook.png", before, after, classes[0], counts)


def _thinned(path: Path) -> NDArray[Any]:
    """Return a raster `(band, y, x)`, from its overviews where it is much larger than a picture."""
    with rasterio.open(path) as source:
        factor = max(1, min(source.shape) // PICTURE_PX)
        return np.asarray(
            source.read(out_shape=(source.count, -(-source.height // factor), -(-source.width // factor)))
        )


class _Tally:
    """Counts and statistics of a product, window by window."""

    def __init__(self, bands: tuple[str, ...]) -> None:
        self.bands, self.counts = bands, dict.fromkeys(Provenance, 0)
        self._bands = {layer: [BandTally(SPECS[layer].nodata) for _ in bands_of(layer, bands)] for layer in Layer}
        self._restored, self._weight, self._interpolated = BandTally(np.nan), BandTally(np.nan), 0

    def add(self, pixels: Mapping[Layer, NDArray[Any]]) -> None:
        for layer, tallies in self._bands.items():
            for tally, band in zip(tallies, pixels[layer], strict=True):
                tally.add(band)
        provenance = pixels[Layer.PROVENANCE][0]
        found = np.bincount(provenance.ravel(), minlength=len(Provenance))
        self.counts = {p: self.counts[p] + int(found[p]) for p in Provenance}
        self._restored.add(picked(pixels[Layer.UNCERTAINTY], among(provenance, RESTORED)))
        around = pixels[Layer.REFERENCE_WEIGHT] == INTERPOLATED_WEIGHT
        self._interpolated += int(around.sum())
        self._weight.add(np.where(around, np.float32(np.nan), pixels[Layer.REFERENCE_WEIGHT]))

    def summary(self, geobox: GeoBox) -> ProductSummary:
        statistics = {layer: tuple(tally.statistics for tally in tallies) for layer, tallies in self._bands.items()}
        means = self._restored.mean, self._weight.mean
        return ProductSummary(geobox, self.bands, self.counts, statistics, *means, self._interpolated)
