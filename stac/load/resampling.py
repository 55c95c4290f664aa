"""Drawing pixels for a grid that is not the file's own, so that every window gets the pixels of the whole.

Rules by kind of band:

- reflectance onto a grid as fine or finer: bilinear or cubic, as asked for;
- reflectance onto a coarser grid: the mean of the valid pixels, weighted by area; anything else would alias;
- classes: nearest; onto a coarser grid the worst of the pixels below (`worst_class`), because a mean of ground and
  cloud is not an observation of the ground.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import StrEnum, unique
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from stac.errors import InvalidItem
from stac.grid.cell import Cell
from stac.grid.georeference import pixel_side_m
from stac.masks.classes import HIDDEN, PixelClass

#: GDAL approximates projections along a row of what it is asked for. Pieces of fixed size at fixed places make
#: a window's pixels independent of the window, pixels.
_PIECE = 256
#: From this ratio of pixel sizes on a grid counts as coarser.
_COARSER = 1.5
#: Pixels that a kernel reaches to each side.
_RADIUS = {Resampling.bilinear: 1, Resampling.cubic: 2}
#: How much further the corners of a turned pixel reach, with what GDAL's approximation adds.
_TURNED = 1.5


@unique
class Interpolation(StrEnum):
    """How reflectance is drawn for a grid that is not coarser than the file."""

    BILINEAR = "bilinear"
    CUBIC = "cubic"

    @property
    def method(self) -> Resampling:
        """The method of rasterio."""
        return Resampling[self.value]


def warped(source: Any, geobox: GeoBox, resampling: Resampling, nodata: int, index: int = 1) -> NDArray[Any]:
    """Return a band of an open file on another grid, `(y, x)`, in the file's data type.

    What is missing, by value, mask or alpha, is so before pixels are mixed.

    Args:
        source: an open rasterio dataset.
        geobox: the pixels wanted.
        resampling: nearest, or how to interpolate; becomes a mean where the grid is coarser than the file.
        nodata: value outside the acquisition, in the file (unless it names another) and in the result.
        index: position of the band in the file, from 1.
    """
    if resampling is not Resampling.nearest and coarseness(_grid_of(source), geobox) > _COARSER:
        resampling = Resampling.average
    top, left = Cell("", geobox).origin
    pixels = np.empty(geobox.shape, source.dtypes[index - 1])
    for rows in _pieces(top, geobox.shape[0]):
        for columns in _pieces(left, geobox.shape[1]):
            corner = geobox.translate_pix(columns.start, rows.start).affine
            piece = GeoBox((_PIECE, _PIECE), corner, geobox.crs)
            _paste(_draw(source, piece, resampling, nodata, index), pixels, rows.start, columns.start)
    return pixels


def _draw(source: Any, piece: GeoBox, resampling: Resampling, nodata: int, index: int) -> NDArray[Any]:
    # GDAL itself leaves out what a mask or an alpha band says is missing.
    own = source.nodatavals[index - 1]
    grid = {"crs": piece.crs.to_wkt(), "transform": piece.affine, "height": _PIECE, "width": _PIECE}
    missing = nodata if own is None else own
    with WarpedVRT(source, resampling=resampling, src_nodata=missing, nodata=nodata, **grid) as view:
        return np.asarray(view.read(index))


def reach_of(file: GeoBox, grid: GeoBox, resampling: Resampling) -> int:
    """Return how far a pixel of a file reaches when it is mixed into those of a grid, pixels of the grid.

    A kernel is as wide as the larger of both pixels; a grid that is turned against the file's meets its corners.
    """
    ratio = coarseness(file, grid)
    if ratio > _COARSER:
        return 1
    radius = _RADIUS.get(resampling, 1) * max(1.0, 1 / ratio)
    return math.ceil(radius - 1e-6) if file.crs == grid.crs else math.ceil(_TURNED * radius)


def coarseness(file: GeoBox, grid: GeoBox) -> float:
    """Return how many pixels of a file lie along one of a grid.

    Raises:
        InvalidItem: the file's projection has no unit of length or angle.
    """
    own, wanted = pixel_side_m(file), pixel_side_m(grid)
    if own is None or wanted is None:
        raise InvalidItem(f"The size of a pixel of projection {file.crs} is not known; leave the scene out.")
    return wanted / own


def _grid_of(source: Any) -> GeoBox:
    return GeoBox(source.shape, source.transform, source.crs)


def _pieces(origin: int, length: int) -> Iterator[range]:
    """Yield the pieces that cover pixels 0..length of an axis that begins at an absolute pixel."""
    for start in range(-(origin % _PIECE), length, _PIECE):
        yield range(start, start + _PIECE)


def _paste(piece: NDArray[Any], pixels: NDArray[Any], top: int, left: int) -> None:
    """Write the part of a piece that lies in `pixels`, in place."""
    height, width = pixels.shape
    rows, columns = slice(max(top, 0), min(top + _PIECE, height)), slice(max(left, 0), min(left + _PIECE, width))
    part = piece[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    pixels[rows, columns] = part


def worst_class(classes: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Return classes of a grid `factor` times as coarse: any cloud, thin cloud, shadow or defect wins, in this order.

    Without any of them a pixel is nodata where most of it is, snow where most of the rest is, else clear.

    Args:
        classes: `PixelClass` values `(y, x)`; both sides multiples of `factor`.
        factor: pixels along one pixel of the result.
    """
    if factor == 1:
        return classes
    height, width = (n // factor for n in classes.shape)
    blocks = classes.reshape(height, factor, width, factor)

    def count(kind: PixelClass) -> NDArray[np.int64]:
        return np.asarray((blocks == kind).sum(axis=(1, 3)))

    snow, clear = count(PixelClass.SNOW), count(PixelClass.CLEAR)
    worst = np.where(snow > clear, PixelClass.SNOW, PixelClass.CLEAR).astype(np.uint8)
    worst[2 * count(PixelClass.NODATA) > factor * factor] = PixelClass.NODATA
    for kind in HIDDEN:
        worst[count(kind) > 0] = kind
    return worst
