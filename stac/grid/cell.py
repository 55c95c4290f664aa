"""Where a work unit lies: a named window of a scene's own pixel grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pystac
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from pyproj.exceptions import CRSError
from shapely.errors import ShapelyError

from stac.errors import InvalidItem, InvalidQuery
from stac.grid.assets import find_asset
from stac.grid.footprint import BBox, box_around, boxes_touch, outline_of_grid, outline_of_item
from stac.grid.georeference import Declared, Grid, require_as_declared
from stac.io.raster import facts_of, open_raster
from stac.io.signing import Access

_SURROUNDINGS_DEG, _DENSITY_DEG = 0.2, 0.05
#: A box that ends this close to a pixel's edge does not touch the pixel behind it, pixels.
_SLACK = 1e-6
#: Cells of more than this side end on multiples of so many pixels, so that their overviews have square pixels.
_LARGE_PX, _MULTIPLE = 1024, 16


@dataclass(frozen=True, slots=True)
class Cell:
    """A rectangle of whole pixels: the native grid of a scene, a cell of a fixed grid, or a window of either."""

    #: `MGRS-33TWL` or `utm33n-10m-2048px-r251c24`, followed by the window when the cell is a part of one.
    id: str
    geobox: GeoBox
    #: West, south, east, north in degrees: pixels whose centre lies outside belong to a cell of another zone and
    #: hold no data. None where all pixels are the cell's own.
    owned: BBox | None = None

    @property
    def gsd_m(self) -> float:
        """Pixel size in metres."""
        return abs(float(self.geobox.resolution.x))

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return int(self.geobox.shape[0] * self.geobox.shape[1])

    @property
    def origin(self) -> tuple[int, int]:
        """Row and column of the first pixel on the endless grid of its projection and pixel size.

        A window's origin is the cell's plus the window's offset, so noise and blocks have one address.
        """
        affine = self.geobox.affine
        return math.floor(affine.f / affine.e + _SLACK), math.floor(affine.c / affine.a + _SLACK)

    def window(self, rows: slice, columns: slice) -> Cell:
        """Return a part of the cell; slices of whole pixels without a step, cut at the cell's edges.

        Raises:
            InvalidQuery: nothing is left.
        """
        height, width = self.geobox.shape
        (top, bottom, _), (left, right, _) = rows.indices(height), columns.indices(width)
        if top >= bottom or left >= right:
            raise InvalidQuery(f"Rows {top}:{bottom} and columns {left}:{right} of cell {self.id} hold no pixel.")
        if (bottom - top, right - left) == (height, width):
            return self
        name = f"{self.id}-r{top}c{left}h{bottom - top}w{right - left}"
        return Cell(name, self.geobox[top:bottom, left:right], self.owned)

    def thinned(self, factor: int) -> Cell:
        """Return the cell with pixels `factor` times as wide; the last ones may reach over its edge."""
        if factor == 1:
            return self
        height, width = (-(-int(n) // factor) for n in self.geobox.shape)
        affine = self.geobox.affine @ Affine.scale(factor)
        return Cell(f"{self.id}-x{factor}", GeoBox((height, width), affine, self.geobox.crs), self.owned)

    def refined(self, factor: int) -> Cell:
        """Return the cell with every pixel divided into `factor` by `factor`."""
        if factor == 1:
            return self
        height, width = (int(n) * factor for n in self.geobox.shape)
        affine = self.geobox.affine @ Affine.scale(1 / factor)
        return Cell(f"{self.id}-d{factor}", GeoBox((height, width), affine, self.geobox.crs), self.owned)

    def foreign(self) -> NDArray[np.bool_] | None:
        """Return where `(y, x)` pixels belong to a cell of another zone; None where no pixel does."""
        if self.owned is None:
            return None
        west, south, east, north = self.owned
        height, width = self.geobox.shape
        columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        x, y = self.geobox.affine @ (columns, rows)
        longitudes, latitudes = self.geobox.crs.transformer_to_crs("EPSG:4326")(x, y)
        centre, half = (west + east) / 2, (east - west) / 2
        away = (longitudes - centre + 180) % 360 - 180
        outside: NDArray[np.bool_] = (away < -half) | (away >= half) | (latitudes < south) | (latitudes >= north)
        return outside


def grid_code(item: pystac.Item) -> str:
    """Return the name of the grid square an item covers, from `grid:code`, MGRS fields, or its id."""
    properties = item.properties
    if code := properties.get("grid:code"):
        return str(code)
    zone, letter, square = (properties.get(f"mgrs:{n}") for n in ("utm_zone", "latitude_band", "grid_square"))
    if zone and letter and square:
        return f"MGRS-{str(zone).zfill(2)}{letter}{square}"
    if tile := properties.get("s2:mgrs_tile"):
        return f"MGRS-{tile}"
    return item.id


def declared_projection(item: pystac.Item) -> str:
    """Return the projection an item declares, as `EPSG:32633`; empty where it declares none."""
    return Declared(item=Grid.of({**item.properties, "proj:shape": None, "proj:transform": None}, "")).code.upper()


def native_geobox(item: pystac.Item, band: str, access: Access | None = None) -> GeoBox:
    """Return the pixel grid of a band of an item: from its projection fields, else from the file.

    The fields are compared with the file when pixels are read; here only where they cannot be true.

    Raises:
        InvalidItem: the projection fields contradict themselves or the file, or there is no asset for the band.
        UnreadableAsset: there are no projection fields and the file cannot be read.
    """
    asset = find_asset(item, band)
    declared, name = Declared.of(item, asset), f"Item {item.id}, asset {band}"
    own, common = declared.asset, declared.item
    shape, transform = own.shape or common.shape, own.transform or common.transform
    if declared.code and shape and transform:
        geobox = _declared_geobox(name, declared.code, shape, transform)
        if _near_footprint(item, geobox):
            return geobox
    href, collection = asset.get_absolute_href() or asset.href, item.collection_id or ""
    with open_raster(href, name, access or Access(), collection) as source:
        facts = facts_of(source, name)
    require_as_declared(facts, declared, name)
    return facts.geobox


def _declared_geobox(name: str, code: str, shape: tuple[int, ...], transform: tuple[float, ...]) -> GeoBox:
    try:
        geobox = GeoBox((shape[0], shape[1]), Affine(*(float(n) for n in transform)), code)
    except (TypeError, ValueError, CRSError) as error:
        raise InvalidItem(
            f"{name}: projection {code}, proj:shape {list(shape)} and proj:transform {list(transform)} describe no "
            f"pixel grid ({error})."
        ) from error
    if geobox.affine.determinant == 0:
        raise InvalidItem(f"{name}: its pixel grid is empty.")
    return geobox


def _near_footprint(item: pystac.Item, geobox: GeoBox) -> bool:
    """Return whether a grid lies where its item's footprint does; an item without a footprint is believed."""
    try:
        outline = outline_of_item(item)
    except InvalidItem:
        return True
    try:
        grid = outline_of_grid(geobox)
    except (ValueError, RuntimeError, ShapelyError):
        return False
    return bool(grid.is_valid and boxes_touch(grid, outline))


def same_cell(one: Cell, other: Cell) -> bool:
    """Return whether two cells are the same pixels of the same grid."""
    return one.id == other.id and bool(one.geobox == other.geobox)


def cell_of(item: pystac.Item, band: str, bbox: Sequence[float] | None = None, access: Access | None = None) -> Cell:
    """Return the cell of an item: its native grid, clipped to `bbox` on whole pixels.

    A large cell that is not a square ends on every 16th pixel, which may lie beyond the grid, where nothing is.

    Args:
        item: the scene whose grid is used.
        band: the band whose pixels define the grid, by common name.
        bbox: west, south, east, north in degrees; None takes the whole grid.
        access: how remote bytes are reached, where the item does not say its grid.

    Raises:
        InvalidItem: the item has no such band, its projection fields are wrong, or its grid is not in metres.
        InvalidQuery: the box does not touch the item's grid.
    """
    geobox, code = _on_multiples(native_geobox(item, band, access)), grid_code(item)
    if problem := unit_problem(geobox):
        raise InvalidItem(f"Item {item.id}: {problem}; draw it on another one: --grid fixed, or a geobox of load().")
    if bbox is None:
        return Cell(code, geobox)
    window = _window(geobox, bbox)
    if window is None:
        raise InvalidQuery(f"The box {tuple(bbox)} does not touch scene {item.id}; choose a box inside its footprint.")
    left, top, right, bottom = window
    if (left, top, right, bottom) == (0, 0, geobox.shape[1], geobox.shape[0]):
        return Cell(code, geobox)
    name = f"{code}-r{top}c{left}h{bottom - top}w{right - left}"
    return Cell(name, geobox[top:bottom, left:right])


def unit_problem(geobox: GeoBox) -> str:
    """Return why clouds cannot be grown by metres on a grid; empty where its pixels are counted in metres."""
    unit = geobox.crs.units[0] if geobox.crs else "unknown"
    return "" if unit == "metre" else f"its grid counts in {unit}, and clouds grow by metres"


def _on_multiples(geobox: GeoBox) -> GeoBox:
    """Return a large grid of unequal sides, such as that of a Landsat scene, with sides of whole multiples."""
    height, width = geobox.shape
    if height == width or max(height, width) <= _LARGE_PX:
        return geobox
    sides = -(-height // _MULTIPLE) * _MULTIPLE, -(-width // _MULTIPLE) * _MULTIPLE
    return GeoBox(sides, geobox.affine, geobox.crs)


def _window(geobox: GeoBox, bbox: Sequence[float]) -> tuple[int, int, int, int] | None:
    """Return (left, top, right, bottom), the pixels a box in degrees touches; None where it touches none."""
    # Far from a UTM zone its projection is not defined, so only the surroundings of the grid are projected.
    outline = outline_of_grid(geobox).buffer(_SURROUNDINGS_DEG)
    near = box_around((bbox[0], bbox[1], bbox[2], bbox[3]), float(outline.centroid.x)).intersection(outline)
    if near.is_empty:
        return None
    projected = Geometry(near, "EPSG:4326").to_crs(geobox.crs, resolution=_DENSITY_DEG).boundingbox
    corners = [(x, y) for x in (projected.left, projected.right) for y in (projected.bottom, projected.top)]
    columns, rows = zip(*(geobox.wld2pix(x, y) for x, y in corners), strict=True)
    height, width = geobox.shape
    left, right = max(0, math.floor(min(columns) + _SLACK)), min(width, math.ceil(max(columns) - _SLACK))
    top, bottom = max(0, math.floor(min(rows) + _SLACK)), min(height, math.ceil(max(rows) - _SLACK))
    if max(right - left, bottom - top) > _LARGE_PX:
        left, top = left // _MULTIPLE * _MULTIPLE, top // _MULTIPLE * _MULTIPLE
        right, bottom = min(width, -(-right // _MULTIPLE) * _MULTIPLE), min(height, -(-bottom // _MULTIPLE) * _MULTIPLE)
    return (left, top, right, bottom) if left < right and top < bottom else None
