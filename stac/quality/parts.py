"""Reading a finished product window by window, each with a margin, so that its size does not matter."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from stac.errors import InvalidProduct
from stac.product import SPECS, Layer
from stac.reflectance import PRODUCT_SCALE

#: Layers that are measured.
_LAYERS = (Layer.DATA, Layer.PROVENANCE, Layer.UNCERTAINTY, Layer.REFERENCE_WEIGHT, Layer.SOURCE_DATE)
#: Side of a window, pixels: a multiple of the blocks of the files.
WINDOW = 1024


@dataclass(frozen=True, slots=True)
class Part:
    """A window of a product with a margin; arrays share their last two axes `(y, x)`."""

    #: Reflectance / 1e-4 `(band, y, x)`, int32, so that differences need no care; 0 where nodata.
    data: NDArray[np.int32]
    #: `Provenance` values; nodata beyond the edge of the product.
    provenance: NDArray[np.uint8]
    #: Half-width of the 90 % interval / 1e-4 `(band, y, x)`, int32; -1 where there is none.
    half_width: NDArray[np.int32]
    #: Share of the reference / 1e-4, int32; -1 where the model did not run.
    reference_weight: NDArray[np.int32]
    #: Days since 1970-01-01, or `SOURCE_DATE_NODATA`.
    source_date: NDArray[np.int32]
    #: Pixels on each side that belong to neighbours.
    margin: int

    @property
    def core(self) -> tuple[slice, slice]:
        """Rows and columns of the window itself: every pixel of a product is in the core of one part."""
        rows, columns = self.provenance.shape
        return slice(self.margin, rows - self.margin), slice(self.margin, columns - self.margin)


@dataclass(frozen=True, slots=True)
class Product:
    """The written layers of one product."""

    folder: Path
    bands: tuple[str, ...]
    #: Rows and columns.
    shape: tuple[int, int]
    #: Size of a pixel, metres.
    gsd_m: float

    @classmethod
    def open(cls, folder: Path, bands: tuple[str, ...]) -> Product:
        """Return the product in a folder.

        Raises:
            InvalidProduct: a layer is missing, cannot be read, or differs from the others in shape or bands.
        """
        with _opened(folder) as layers:
            shapes = {layer.shape for layer in layers.values()}
            counts = {layers[Layer.DATA].count, layers[Layer.UNCERTAINTY].count}
            gsd = abs(float(layers[Layer.DATA].transform.a))
        if len(shapes) != 1 or counts != {len(bands)}:
            raise InvalidProduct(
                f"{folder}: layers of shapes {sorted(shapes)} with {sorted(counts)} bands; run it again."
            )
        return cls(folder, bands, shapes.pop(), gsd)

    @property
    def pixel_km2(self) -> float:
        """Area of a pixel, square kilometres."""
        return self.gsd_m**2 / 1e6

    def parts(self, margin: int, window: int = WINDOW) -> Generator[Part]:
        """Yield the product in windows, row by row.

        Args:
            margin: pixels of the neighbours on each side.
            window: side of a window, pixels.

        Raises:
            InvalidProduct: a layer cannot be read.
        """
        with _opened(self.folder) as layers:
            for row in range(0, self.shape[0], window):
                for column in range(0, self.shape[1], window):
                    pixels = {
                        layer: _read(file, SPECS[layer].nodata, row, column, window, margin)
                        for layer, file in layers.items()
                    }
                    yield _part(pixels, margin)


@contextmanager
def _opened(folder: Path) -> Iterator[dict[Layer, Any]]:
    """Open all layers of a product; what GDAL says about a broken one becomes our error, naming the product."""
    try:
        with ExitStack() as files:
            yield {layer: files.enter_context(rasterio.open(folder / layer.file_name)) for layer in _LAYERS}
    except (RasterioError, OSError) as error:
        raise InvalidProduct(f"A layer of {folder} cannot be read ({error}); make the product again.") from error


def _read(layer: Any, outside: float, row: int, column: int, window: int, margin: int) -> NDArray[Any]:
    """Return `(band, y, x)` of a window with its margin; what lies outside of the file is filled."""
    top, left = max(row - margin, 0), max(column - margin, 0)
    end_row, end_column = min(row + window, layer.height), min(column + window, layer.width)
    bottom, right = min(end_row + margin, layer.height), min(end_column + margin, layer.width)
    pixels = layer.read(window=Window(left, top, right - left, bottom - top))
    beyond = (
        (0, 0),
        (margin - (row - top), margin - (bottom - end_row)),
        (margin - (column - left), margin - (right - end_column)),
    )
    return np.pad(pixels, beyond, constant_values=outside)


def _part(layers: Mapping[Layer, NDArray[Any]], margin: int) -> Part:
    return Part(
        data=layers[Layer.DATA].astype(np.int32),
        provenance=layers[Layer.PROVENANCE][0],
        half_width=_whole(layers[Layer.UNCERTAINTY]),
        reference_weight=_whole(layers[Layer.REFERENCE_WEIGHT][0]),
        source_date=layers[Layer.SOURCE_DATE][0],
        margin=margin,
    )


def _whole(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return values in steps of 1e-4, -1 for NaN: sums of integers do not depend on the order of windows."""
    known = np.isfinite(values)
    # Beyond 10 an interval says nothing more.
    steps = np.rint(np.where(known, values, 0).clip(0, 10) / PRODUCT_SCALE).astype(np.int32)
    steps[~known] = -1
    return steps
