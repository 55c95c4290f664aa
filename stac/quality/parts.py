"""The written layers of a product in windows, and the groups of restored pixels in each that are measured."""

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
from stac.io.cores import cores
from stac.masks.classes import among, around_square
from stac.product.layers import RESTORED, Provenance
from stac.product.writer import SPECS, Layer

BoolArray = NDArray[np.bool_]

#: Name of all restored pixels together, and what each group holds.
EVERYTHING = "restored"
GROUPS: dict[str, tuple[Provenance, ...]] = {EVERYTHING: RESTORED} | {p.name.lower(): (p,) for p in RESTORED}

#: How far from a patch its surroundings reach: where the ground is alike, but beyond the haze at a cloud's edge.
_REACH_M, _LEAST_REACH, _MOST_REACH = 1000.0, 8, 100
#: Fewer pixels than this on either side, and a comparison says nothing.
FEWEST = 30
#: Layers that are measured.
_LAYERS = (Layer.DATA, Layer.PROVENANCE, Layer.UNCERTAINTY, Layer.REFERENCE_WEIGHT, Layer.SOURCE_DATE)
#: Side of a window, pixels: a multiple of the blocks of the files.
WINDOW = 1024
#: Pixels around a window that its outermost ones are compared with.
EDGE = 2


@dataclass(frozen=True, slots=True)
class Group:
    """Pixels of one group in a window `(y, x)`."""

    #: Pixels of the group.
    inside: BoolArray
    #: Those of them that lie near observed ones.
    rim: BoolArray
    #: Observed pixels that lie near the group.
    ring: BoolArray


def reach_of(gsd_m: float) -> int:
    """Return how far surroundings reach, pixels."""
    return int(np.clip(round(_REACH_M / gsd_m), _LEAST_REACH, _MOST_REACH))


def groups_of(part: Part, reach: int) -> dict[str, Group]:
    """Return the groups that a part holds, by name.

    Near means at most `reach` pixels away along rows and along columns.
    """
    around, (rows, columns) = part.surroundings, part.own.shape
    window = np.s_[reach : reach + rows, reach : reach + columns]
    # A group beside the window has a ring in it.
    observed, present = among(around, (Provenance.OBSERVED,)), np.bincount(around.ravel(), minlength=256)
    beside = around_square(observed, reach)[window]
    found: dict[tuple[Provenance, ...], Group] = {}
    groups = {}
    for name, classes in GROUPS.items():
        here = tuple(kind for kind in classes if present[kind])
        if here and here not in found:
            every = among(around, here)
            inside, near = every[window], around_square(every, reach)[window]
            found[here] = Group(inside, inside & beside, observed[window] & near)
        if here:
            groups[name] = found[here]
    return groups


def distinct(groups: Mapping[str, Group]) -> Iterator[tuple[Group, list[str]]]:
    """Yield every group once with its names: where one class is restored, it is also all that is restored."""
    for group in {id(group): group for group in groups.values()}.values():
        yield group, [name for name, other in groups.items() if other is group]


@dataclass(frozen=True, slots=True)
class Part:
    """A window of a product, with the pixels around that it is compared with; last two axes `(y, x)`."""

    #: Reflectance / 1e-4 `(band, y, x)` of the window and `EDGE` pixels around it, int32, so that differences need no
    #: care; 0 where nodata.
    data: NDArray[np.int32]
    #: `Provenance` values likewise; nodata beyond the edge of the product.
    provenance: NDArray[np.uint8]
    #: `Provenance` values of the window and so many pixels around it as surroundings reach.
    surroundings: NDArray[np.uint8]
    #: Half-width of the 90 % interval of the window `(band, y, x)`, reflectance; NaN where there is none.
    half_width: NDArray[np.float32]
    #: Share of the reference in the window; NaN where the model did not run.
    reference_weight: NDArray[np.float32]
    #: Days since 1970-01-01 in the window, or `SOURCE_DATE_NODATA`.
    source_date: NDArray[np.int32]

    @property
    def core(self) -> tuple[slice, slice]:
        """Rows and columns of the window in `data` and `provenance`."""
        rows, columns = self.provenance.shape
        return slice(EDGE, rows - EDGE), slice(EDGE, columns - EDGE)

    @property
    def own(self) -> NDArray[np.uint8]:
        """`Provenance` values of the window."""
        return self.provenance[self.core]


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

    def parts(self, reach: int, window: int = WINDOW) -> Generator[Part]:
        """Yield the product in windows, row by row.

        Args:
            reach: how far surroundings reach, pixels.
            window: side of a window, pixels.

        Raises:
            InvalidProduct: a layer cannot be read.
        """
        with _opened(self.folder) as layers:
            for row in range(0, self.shape[0], window):
                for column in range(0, self.shape[1], window):
                    yield _part(layers, row, column, window, max(reach, EDGE))


@contextmanager
def _opened(folder: Path) -> Iterator[dict[Layer, Any]]:
    """Open all layers of a product; what GDAL says about a broken one becomes our error, naming the product."""
    try:
        with ExitStack() as files:
            yield {
                layer: files.enter_context(rasterio.open(folder / layer.file_name, num_threads=cores()))
                for layer in _LAYERS
            }
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


def _part(layers: Mapping[Layer, Any], row: int, column: int, window: int, reach: int) -> Part:
    def pixels(layer: Layer, margin: int = 0) -> NDArray[Any]:
        return _read(layers[layer], SPECS[layer].nodata, row, column, window, margin)

    surroundings = pixels(Layer.PROVENANCE, reach)[0]
    rows, columns = surroundings.shape
    beyond = reach - EDGE
    return Part(
        data=pixels(Layer.DATA, EDGE).astype(np.int32),
        provenance=surroundings[beyond : rows - beyond, beyond : columns - beyond],
        surroundings=surroundings,
        half_width=pixels(Layer.UNCERTAINTY),
        reference_weight=pixels(Layer.REFERENCE_WEIGHT)[0],
        source_date=pixels(Layer.SOURCE_DATE)[0],
    )
