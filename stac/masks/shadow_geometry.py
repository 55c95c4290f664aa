"""Where clouds can cast their shadows: along the sun's rays, over plausible heights.

The height of a cloud is not known, so a cloud darkens one place of a whole strip. A strip alone proves nothing; beside
ground that is darker than on other dates it is the second witness (`stac.masks.temporal`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from pyproj import Geod

BoolArray = NDArray[np.bool_]

#: Heights of cloud above the ground, metres: cumulus and what drifts above it. Cirrus casts no shadow to speak of.
_LOWEST_M, _HIGHEST_M = 200.0, 4000.0
#: Strips end here, metres: a low sun throws shadows far, and what is that far proves little.
FARTHEST_M = 6000.0
#: Without this much sun there are no shadows, degrees.
_LEAST_ELEVATION = 10.0
_NOON_2000 = datetime(2000, 1, 1, 12, tzinfo=UTC)
_ELLIPSOID = Geod(ellps="WGS84")


@dataclass(frozen=True, slots=True)
class Sun:
    """Where the sun stands, degrees.

    Attributes:
        azimuth: clockwise from true north.
        elevation: above the horizon, negative at night.
    """

    azimuth: float
    elevation: float


def sun_at(instant: datetime, longitude: float, latitude: float) -> Sun:
    """Return the position of the sun, to some hundredths of a degree between 1950 and 2050.

    Low-precision formulas of the Astronomical Almanac, without refraction.

    Args:
        instant: with a time zone.
        longitude: degrees east.
        latitude: degrees north.
    """
    days = (instant - _NOON_2000).total_seconds() / 86400
    anomaly = math.radians(357.528 + 0.9856003 * days)
    ecliptic = math.radians(280.460 + 0.9856474 * days + 1.915 * math.sin(anomaly) + 0.020 * math.sin(2 * anomaly))
    obliquity = math.radians(23.439 - 4e-7 * days)
    ascension = math.atan2(math.cos(obliquity) * math.sin(ecliptic), math.cos(ecliptic))
    declination = math.asin(math.sin(obliquity) * math.sin(ecliptic))
    sidereal = math.radians(15 * (18.697375 + 24.065709824279 * days) + longitude)
    hour, north = sidereal - ascension, math.radians(latitude)
    up = math.sin(north) * math.sin(declination) + math.cos(north) * math.cos(declination) * math.cos(hour)
    east = -math.cos(declination) * math.sin(hour)
    ahead = math.cos(north) * math.sin(declination) - math.sin(north) * math.cos(declination) * math.cos(hour)
    return Sun(math.degrees(math.atan2(east, ahead)) % 360, math.degrees(math.asin(max(-1.0, min(1.0, up)))))


def cast(cloud: BoolArray, geobox: GeoBox, sun: Sun, place: tuple[float, float]) -> BoolArray:
    """Return where `(y, x)` clouds can have their shadows; nowhere when the sun is too low.

    Args:
        cloud: `(y, x)`; clouds beyond the edge are not known, so take as much around as `FARTHEST_M`.
        geobox: its grid, in metres or degrees.
        sun: its position.
        place: longitude and latitude where the sun has it, degrees; directions on the grid are those of this place.
    """
    shaded = np.zeros_like(cloud)
    if sun.elevation < _LEAST_ELEVATION or not cloud.any():
        return shaded
    slope = math.tan(math.radians(sun.elevation))
    first, last = _LOWEST_M / slope, min(_HIGHEST_M / slope, FARTHEST_M)
    down, right = _pixels_per_metre(geobox, sun.azimuth + 180, place)
    steps = math.ceil((last - first) * max(abs(down), abs(right))) + 1
    height, width = cloud.shape
    moves = {(round(far * down), round(far * right)) for far in np.linspace(first, last, steps)}
    for rows, columns in moves:
        if abs(rows) < height and abs(columns) < width:
            part = cloud[max(-rows, 0) : height - max(rows, 0), max(-columns, 0) : width - max(columns, 0)]
            shaded[max(rows, 0) : height + min(rows, 0), max(columns, 0) : width + min(columns, 0)] |= part
    return shaded


def _pixels_per_metre(geobox: GeoBox, azimuth: float, place: tuple[float, float]) -> tuple[float, float]:
    """Return rows and columns of a grid that one metre on the ground towards an azimuth is, at a place."""
    far = 1000.0
    project = CRS("EPSG:4326").transformer_to_crs(geobox.crs)
    there = _ELLIPSOID.fwd(*place, azimuth, far)[:2]
    (column, row), (other_column, other_row) = (geobox.wld2pix(*project(*point)) for point in (place, there))
    return (other_row - row) / far, (other_column - column) / far
