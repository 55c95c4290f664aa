"""Footprints in degrees, also across the antimeridian."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pystac
import shapely
from shapely.errors import ShapelyError
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from stac.errors import InvalidItem
from stac.grid.footprint import around, cut
from stac.search.query import BBox

_MALFORMED = (ShapelyError, TypeError, ValueError, KeyError, AttributeError, IndexError)
#: No scene is wider; a longer edge goes the other way round the world, degrees.
_HALF_WORLD = 180.0
#: A footprint that covers less than this is a line, square degrees.
_LINE = 1e-9


def footprint(item: pystac.Item) -> BaseGeometry:
    """Return where an item lies, with longitudes in -180..180; cut in parts at the antimeridian.

    Catalogs write a scene across the antimeridian in three ways: cut in parts (RFC 7946, section 3.1.9), with
    longitudes beyond 180, or as one ring that jumps from 179 to -179 and so goes round the world.

    Raises:
        InvalidItem: the footprint is missing or no GeoJSON geometry.
    """
    if not item.geometry:
        raise InvalidItem(f"Item {item.id} has no geometry, so its place is unknown.")
    try:
        outline = shape(item.geometry)
        if outline.is_empty or not np.isfinite(outline.bounds).all():
            raise InvalidItem(f"Item {item.id} has an empty footprint.")
        return cut(_together(outline if outline.is_valid else shapely.make_valid(outline)))
    except _MALFORMED as error:
        raise InvalidItem(f"Item {item.id} has a footprint that is not a GeoJSON geometry ({error}).") from error


def normalise(item: pystac.Item) -> None:
    """Write an item's geometry and box with longitudes in -180..180 where they are not yet.

    Raises:
        InvalidItem: the footprint is missing or no GeoJSON geometry.
    """
    outline = footprint(item)
    written = shape(item.geometry)
    if not written.is_valid or written.equals(outline):
        return
    item.geometry = mapping(outline)
    item.bbox = list(box_of(outline))


def box_of(outline: BaseGeometry) -> BBox:
    """Return the box of a cut footprint: west above east where it lies on both sides of the antimeridian."""
    west, south, east, north = outline.bounds
    parts = shapely.get_parts(outline)
    left, right = ([p for p in parts if (p.centroid.x < 0) is negative] for negative in (True, False))
    if left and right and west == -_HALF_WORLD and east == _HALF_WORLD:
        west, east = min(p.bounds[0] for p in right), max(p.bounds[2] for p in left)
    return float(west), float(south), float(east), float(north)


def touches(item: pystac.Item, boxes: Iterable[BBox | None]) -> bool:
    """Return whether an item's footprint touches one of some boxes in degrees; None is everywhere.

    Raises:
        InvalidItem: the footprint is missing or no GeoJSON geometry.
    """
    outline = footprint(item)
    return any(box is None or bool(outline.intersects(shapely.box(*box))) for box in boxes)


def _together(outline: BaseGeometry) -> BaseGeometry:
    """Return the geometry without a jump round the world; its longitudes may leave -180..180."""
    west, _, east, _ = outline.bounds
    if east - west <= _HALF_WORLD:
        return outline
    together = around(outline, float(shapely.get_coordinates(outline)[0, 0]))
    # A band from -180 to 180 says nothing about the longitude; it stays what it is.
    return together if together.area > _LINE else outline
