"""Where scenes lie and how much of a cell they cover, also across the antimeridian.

Catalogs write a scene across the antimeridian in three ways: cut in parts (RFC 7946, section 3.1.9), with longitudes
beyond 180, or as one ring that jumps from 179 to -179 and so goes round the world. Outlines are compared around one
longitude: every vertex is moved by whole turns until it lies within half a turn of it, which brings all three together
without cutting anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pystac
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from shapely.errors import ShapelyError
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from stac.errors import InvalidItem

BBox = tuple[float, float, float, float]
_MALFORMED = (ShapelyError, TypeError, ValueError, KeyError, AttributeError, IndexError)
#: Along a meridian, rounded down.
_METRES_A_DEGREE = 110_000
#: Outlines of cells follow the curve of their grid with this many pieces along the longer side.
_SEGMENTS = 20
#: A scene that covers less than this is a line, square degrees.
_LINE = 1e-9
#: No scene is wider, degrees.
_HALF_WORLD = 180.0


def around(geometry: BaseGeometry, longitude: float) -> BaseGeometry:
    """Return a geometry in degrees with every vertex within 180 degrees of a longitude."""

    def move(points: NDArray[Any]) -> NDArray[Any]:
        turned = (points[:, 0] - longitude + 180) % 360 - 180 + longitude
        return np.column_stack([turned, points[:, 1]])

    moved = shapely.transform(geometry, move)
    return moved if moved.is_valid else moved.buffer(0)


def outline_of_grid(geobox: GeoBox) -> BaseGeometry:
    """Return the outline of a pixel grid in degrees around its own centre."""
    box, to_degrees = geobox.extent.boundingbox, geobox.crs.transformer_to_crs("EPSG:4326")
    sides = shapely.segmentize(shapely.box(*box), max(box.span_x, box.span_y) / _SEGMENTS)
    outline = shapely.transform(sides, lambda points: np.column_stack(to_degrees(*points.T)))
    centre, _ = to_degrees((box.left + box.right) / 2, (box.bottom + box.top) / 2)
    return around(outline, float(centre))


def footprint_of(item: pystac.Item) -> BaseGeometry:
    """Return where an item lies, with longitudes in -180..180; cut in parts at the antimeridian.

    Raises:
        InvalidItem: the footprint is missing, empty, or no GeoJSON geometry.
    """
    return cut(_written(item)[1])


def normalise(item: pystac.Item) -> None:
    """Write an item's geometry and box with longitudes in -180..180 where they are not yet.

    Raises:
        InvalidItem: the footprint is missing, empty, or no GeoJSON geometry.
    """
    written, outline = _written(item)
    if written.is_valid and not written.equals(parts := cut(outline)):
        item.geometry, item.bbox = mapping(parts), list(box_of(outline))


def outline_of_item(item: pystac.Item, grid: GeoBox | None = None) -> BaseGeometry:
    """Return the footprint of a scene in degrees, in one piece: its longitudes may leave -180..180.

    Args:
        item: the scene.
        grid: its pixel grid, used where the footprint is written as a band round the whole world.

    Raises:
        InvalidItem: the footprint is missing, empty, without area, or no GeoJSON geometry.
    """
    written, outline = _written(item)
    if _is_narrow(outline) and outline.area > _LINE:
        return outline
    if grid is None:
        raise InvalidItem(f"Item {item.id} has a footprint without area, from {written.bounds}.")
    return outline_of_grid(grid)


def _written(item: pystac.Item) -> tuple[BaseGeometry, BaseGeometry]:
    """Return a footprint as it is written, and without a jump round the world; its longitudes may leave -180..180.

    A band from -180 to 180 says nothing about the longitude; it stays what it is.
    """
    if not item.geometry:
        raise InvalidItem(f"Item {item.id} has no geometry, so its place is unknown.")
    try:
        written = shape(item.geometry)
        if written.is_empty or not np.isfinite(written.bounds).all():
            raise InvalidItem(f"Item {item.id} has an empty footprint.")
        if not _is_narrow(written):
            together = around(written, float(shapely.get_coordinates(written)[0, 0]))
            if together.area > _LINE:
                return written, together
        outline = written if written.is_valid else shapely.make_valid(written)
    except _MALFORMED as error:
        raise InvalidItem(f"Item {item.id} has a footprint that is not a GeoJSON geometry ({error}).") from error
    return written, outline


def _is_narrow(outline: BaseGeometry) -> bool:
    """Return whether an outline spans half the world at most: a longer edge goes the other way round it."""
    west, _, east, _ = outline.bounds
    return bool(east - west <= _HALF_WORLD)


def share_covered(cell: BaseGeometry, outlines: Sequence[BaseGeometry]) -> float:
    """Return the share 0..1 of a cell's outline that lies in any of the footprints; both in degrees.

    Degrees stand for areas here, which is close enough within one cell.
    """
    longitude = float(cell.centroid.x)
    there = shapely.union_all([around(outline, longitude) for outline in outlines])
    return float(cell.intersection(there).area / cell.area) if cell.area else 0.0


def box_across(bbox: BBox) -> BaseGeometry:
    """Return a box in degrees; its east lies beyond 180 where its west is above its east."""
    west, south, east, north = bbox
    return shapely.box(west, south, east if west < east else east + 360, north)


def box_around(bbox: BBox, longitude: float) -> BaseGeometry:
    """Return all of a box in degrees that lies within 180 degrees of a longitude."""
    turn = shapely.box(longitude - 180, -90, longitude + 180, 90)
    west, south, east, north = box_across(bbox).bounds
    turns = [shapely.box(west + by, south, east + by, north) for by in (-720, -360, 0, 360, 720)]
    return shapely.union_all(turns).intersection(turn)


def grown(bbox: BBox, metres: float) -> BBox:
    """Return a box in degrees with at least so many metres more on every side, west above east where it must be.

    The margin is wide enough for squares that are turned against the meridians.
    """
    west, south, east, north = box_across(bbox).bounds
    margin = 2 * metres / _METRES_A_DEGREE
    south, north = max(south - margin, -90.0), min(north + margin, 90.0)
    widest = math.cos(math.radians(max(abs(south), abs(north))))
    aside = margin / widest if widest > 0 else 360.0
    west, east = west - aside, east + aside
    if east - west >= 360:
        return -180.0, south, 180.0, north
    return (west + 180) % 360 - 180, south, (east + 180) % 360 - 180, north


def boxes_touch(one: BaseGeometry, other: BaseGeometry) -> bool:
    """Return whether the boxes of two outlines in degrees touch, whatever turn their longitudes are written in."""
    west, south, east, north = one.bounds
    left, bottom, right, top = other.bounds
    apart = abs(((west + east) / 2 - (left + right) / 2 + 180) % 360 - 180)
    return bool(apart <= (east - west + right - left) / 2 and south <= top and bottom <= north)


def cut(outline: BaseGeometry) -> BaseGeometry:
    """Return an outline with longitudes in -180..180, in parts where it crosses (RFC 7946, section 3.1.9)."""
    west, _, east, _ = outline.bounds
    if west >= -180 and east <= 180:
        return outline
    world = shapely.box(-180, -90, 180, 90)
    turned = (shapely.transform(outline, lambda p, by=by: np.add(p, (by, 0))) for by in (-360.0, 0.0, 360.0))
    parts = [part for each in turned for part in shapely.get_parts(each.intersection(world))]
    # Where an outline touches the border from outside it leaves a line there; a point has no area anywhere.
    return shapely.union_all([part for part in parts if part.area > 0 or outline.area == 0])


def box_of(outline: BaseGeometry) -> BBox:
    """Return the box of an outline in degrees, west above east where it crosses (RFC 7946, section 5.2)."""
    west, south, east, north = outline.bounds
    if west >= -180 and east <= 180:
        return west, south, east, north
    return (west + 180) % 360 - 180, south, (east + 180) % 360 - 180, north
