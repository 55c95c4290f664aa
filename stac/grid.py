"""Where a work unit lies: a named window of a scene's own pixel grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pystac
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.geom import box

from stac.assets import find_asset
from stac.errors import InvalidItem, InvalidQuery

BBox = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Cell:
    """A rectangle of whole pixels in the native grid of a scene."""

    #: `MGRS-33TWL`, followed by the window when the cell is a part of the grid.
    id: str
    geobox: GeoBox

    @property
    def gsd_m(self) -> float:
        """Pixel size in metres."""
        return abs(float(self.geobox.resolution.x))

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return int(self.geobox.shape[0] * self.geobox.shape[1])


def grid_code(item: pystac.Item) -> str:
    """Return the name of the grid square an item covers, from `grid:code`, MGRS fields, or its id."""
    properties = item.properties
    if code := properties.get("grid:code"):
        return str(code)
    zone, letter, square = (properties.get(f"mgrs:{n}") for n in ("utm_zone", "latitude_band", "grid_square"))
    if zone and letter and square:
        return f"MGRS-{zone:02d}{letter}{square}"
    if tile := properties.get("s2:mgrs_tile"):
        return f"MGRS-{tile}"
    return item.id


def native_geobox(item: pystac.Item, band: str) -> GeoBox:
    """Return the pixel grid of a band of an item, from its projection fields.

    Raises:
        InvalidItem: the item does not say its projection, shape and transform.
    """
    asset = find_asset(item, band)

    def field(name: str) -> Any:  # noqa: ANN401 - JSON values
        return asset.extra_fields.get(name, item.properties.get(name))

    code = field("proj:code") or (f"EPSG:{field('proj:epsg')}" if field("proj:epsg") else None)
    shape, transform = field("proj:shape"), field("proj:transform")
    if not (code and shape and transform):
        raise InvalidItem(
            f"Item {item.id}, asset {band}: proj:code, proj:shape or proj:transform is missing; "
            "use a collection with the projection extension."
        )
    return GeoBox((int(shape[0]), int(shape[1])), Affine(*transform[:6]), code)


def cell_of(item: pystac.Item, band: str, bbox: Sequence[float] | None = None) -> Cell:
    """Return the cell of an item: its native grid, clipped to `bbox` on whole pixels.

    Args:
        item: the scene whose grid is used.
        band: the band whose pixels define the grid, by common name.
        bbox: west, south, east, north in degrees; None takes the whole grid.

    Raises:
        InvalidItem: the item's projection fields are missing.
        InvalidQuery: the box does not touch the item's grid.
    """
    geobox, code = native_geobox(item, band), grid_code(item)
    if bbox is None:
        return Cell(code, geobox)
    outline = box(*bbox, "EPSG:4326").to_crs(geobox.crs, resolution=0.05).boundingbox
    height, width = geobox.shape
    columns, rows = zip(*(~geobox.affine * corner for corner in _corners(outline)), strict=True)
    left, right = max(0, math.floor(min(columns) + 1e-6)), min(width, math.ceil(max(columns) - 1e-6))
    top, bottom = max(0, math.floor(min(rows) + 1e-6)), min(height, math.ceil(max(rows) - 1e-6))
    if left >= right or top >= bottom:
        raise InvalidQuery(
            f"The box {tuple(bbox)} does not touch scene {item.id}; choose a box inside its footprint."
        )
    if (left, top, right, bottom) == (0, 0, width, height):
        return Cell(code, geobox)
    name = f"{code}-r{top}c{left}h{bottom - top}w{right - left}"
    return Cell(name, geobox[top:bottom, left:right])


def _corners(outline: Any) -> list[tuple[float, float]]:  # noqa: ANN401 - odc-geo is untyped
    return [(x, y) for x in (outline.left, outline.right) for y in (outline.bottom, outline.top)]
