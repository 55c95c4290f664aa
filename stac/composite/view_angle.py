"""Sentinel-2 reflectance as it would be seen from straight above.

A swath is 290 km wide: ground is seen from up to 12 degrees to either side, brighter with the sun behind the satellite.
The c-factor of Roy et al. (2016, 2017) is the ratio of what a kernel model of bidirectional reflectance (Ross-Thick and
Li-Sparse reciprocal; Lucht et al. 2000) gives at nadir to what it gives for the view, with one set of weights for all
ground. The sun stays where it is.

Catalogs say nothing of the view of a pixel. It follows from the relative orbit: tracks repeat to some kilometres, so
the place of each of the 143 is known once that of one is. That of the first was fitted to swath edges of orbits 65, 79,
122 and 141, which then lie 147 km from their tracks, to 3 km: a fifth of a degree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import pystac
from numpy.typing import NDArray
from odc.geo.crs import CRS
from pyproj import Geod

from stac.composite.normalisation import ResidualField
from stac.grid.cell import Cell
from stac.masks.shadow_geometry import Sun, sun_at
from stac.search.acquisitions import Acquisition, platform_of

FloatArray = NDArray[np.float64]

#: Weights of the isotropic, geometric and volumetric kernel by band (Roy et al. 2016, 2017, means of MODIS).
_WEIGHTS = {
    "blue": (0.0774, 0.0079, 0.0372),
    "green": (0.1306, 0.0178, 0.0580),
    "red": (0.1690, 0.0227, 0.0574),
    "rededge1": (0.2085, 0.0256, 0.0845),
    "rededge2": (0.2316, 0.0273, 0.1003),
    "rededge3": (0.2599, 0.0294, 0.1197),
    "nir": (0.3093, 0.0330, 0.1535),
    "nir08": (0.3093, 0.0330, 0.1535),
    "swir16": (0.3430, 0.0453, 0.1154),
    "swir22": (0.2658, 0.0387, 0.0639),
}
#: Elevation of the sun below which the kernels are not believed, degrees: near the horizon they turn negative.
_LOWEST_SUN = 15.0
#: Of the orbit: inclination, altitude and tracks of a cycle of ten days (ESA); where the first one crosses the equator
#: on the day side.
_INCLINATION, _ALTITUDE_KM, _TRACKS, _DAYS = math.radians(98.62), 786.0, 143, 10
_FIRST_CROSSING = 168.375
_EARTH_KM = 6371.0
#: Half a swath and a margin, kilometres: beyond there is no view.
_FARTHEST_KM = 155.0
_ELLIPSOID = Geod(ellps="WGS84")
#: Squared axis ratio of the ellipsoid.
_FLATTENED = 1 - _ELLIPSOID.es
#: Most nodes along a side, and least distance between them, metres.
_NODES, _STEP_M = 24, 10_000.0
_ORBIT_NAMES = ("sat:relative_orbit", "s2:relative_orbit_number", "sentinel2:relative_orbit_number")
#: In ESA's product names.
_ORBIT = re.compile(r"_R(\d{3})_")


def relative_orbit(item: pystac.Item) -> int | None:
    """Return the relative orbit of a Sentinel-2 scene, 1..143; None for another satellite, or where nothing says it."""
    if not platform_of(item).startswith("sentinel-2"):
        return None
    stated = next((str(item.properties[name]) for name in _ORBIT_NAMES if name in item.properties), "")
    if not stated:
        names = " ".join(str(item.properties.get(name, "")) for name in ("s2:product_uri", "s2:product_title", "title"))
        found = _ORBIT.search(f"{names} {item.id}_")
        stated = found[1] if found else ""
    number = int(stated) if stated.isdecimal() else 0
    return number if 1 <= number <= _TRACKS else None


def towards_nadir(date: Acquisition, cell: Cell, bands: Sequence[str]) -> ResidualField | None:
    """Return what a view from straight above adds to reflectance, as a share of it, over a region.

    Args:
        date: its scenes are of one orbit.
        cell: the region.
        bands: common names; 0 for those that no weights are known of.

    Returns:
        None where the orbit of the date is not known.
    """
    orbit = relative_orbit(date.items[0])
    if orbit is None:
        return None
    step = max(1, math.ceil(max(max(cell.geobox.shape) / _NODES, _STEP_M / cell.gsd_m)))
    rows, columns = (np.arange(0, length + step, step) for length in cell.geobox.shape)
    affine, (top, left) = cell.geobox.affine, cell.origin
    x, y = cell.geobox.pix2wld(*(part.ravel().astype(float) for part in np.meshgrid(columns, rows)))
    longitude, latitude = map(np.asarray, cell.geobox.crs.transformer_to_crs(CRS("EPSG:4326"))(x, y))
    zenith, azimuth = view_of(orbit, longitude, latitude)
    suns = [sun_at(date.instant, *place) for place in zip(longitude, latitude, strict=True)]
    size = float(affine.a), float(affine.e)
    shares = [(c_factor(suns, zenith, azimuth, band) - 1).reshape(len(rows), len(columns)) for band in bands]
    nodes = tuple(tuple(tuple(float(f"{v:.4g}") for v in row) for row in share) for share in shares)
    return ResidualField(nodes, (left * size[0], top * size[1]), (step * size[0], step * size[1]))


def c_factor(suns: Sequence[Sun], zenith: FloatArray, azimuth: FloatArray, band: str) -> FloatArray:
    """Return by how much reflectance of some places is to be multiplied; 1 at night.

    Args:
        suns: position of the sun at each of them. One that is lower than the kernels hold counts as that low.
        zenith: of the satellite as seen from the ground, degrees.
        azimuth: likewise, degrees clockwise from north.
        band: common name; 1 for one that no weights are known of.
    """
    if band not in _WEIGHTS:
        return np.ones_like(zenith)
    isotropic, geometric, volumetric = _WEIGHTS[band]
    elevation, towards = np.array([(sun.elevation, sun.azimuth) for sun in suns]).T
    high, between = np.radians(90 - np.maximum(elevation, _LOWEST_SUN)), np.radians(azimuth - towards)
    at_nadir, as_seen = (
        isotropic + volumetric * _ross_thick(high, view, between) + geometric * _li_sparse(high, view, between)
        for view in (np.zeros_like(zenith), np.radians(zenith))
    )
    return np.where(elevation > 0, at_nadir / as_seen, 1.0)


def view_of(orbit: int, longitude: FloatArray, latitude: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return zenith and azimuth of the satellite, degrees, as places see it when it passes on the day side.

    Args:
        orbit: relative, 1..143.
        longitude: of the places, degrees.
        latitude: likewise.
    """
    track = _track(orbit)
    nearest = (_directions(longitude, latitude) @ _directions(*track).T).argmax(axis=1)
    azimuth, _, metres = _ELLIPSOID.inv(longitude, latitude, track[0][nearest], track[1][nearest])
    arc = np.minimum(np.asarray(metres) / 1000, _FARTHEST_KM) / _EARTH_KM
    off_nadir = np.arctan2(_EARTH_KM * np.sin(arc), _EARTH_KM * (1 - np.cos(arc)) + _ALTITUDE_KM)
    return np.degrees(arc + off_nadir), np.asarray(azimuth)


def _phase(sun: FloatArray, view: FloatArray, between: FloatArray) -> FloatArray:
    """Return the cosine of the angle between sun and view."""
    cosine = np.cos(sun) * np.cos(view) + np.sin(sun) * np.sin(view) * np.cos(between)
    return np.asarray(np.clip(cosine, -1, 1))


def _ross_thick(sun: FloatArray, view: FloatArray, between: FloatArray) -> FloatArray:
    """Return the volumetric kernel: light scattered by leaves."""
    cosine = _phase(sun, view, between)
    angle = np.arccos(cosine)
    scattered = ((np.pi / 2 - angle) * cosine + np.sin(angle)) / (np.cos(sun) + np.cos(view))
    return np.asarray(scattered - np.pi / 4)


def _li_sparse(sun: FloatArray, view: FloatArray, between: FloatArray) -> FloatArray:
    """Return the geometric kernel: shadows of crowns that are as wide as high and stand two radii above the ground."""
    slant, tangents = 1 / np.cos(sun) + 1 / np.cos(view), (np.tan(sun), np.tan(view))
    apart = tangents[0] ** 2 + tangents[1] ** 2 - 2 * tangents[0] * tangents[1] * np.cos(between)
    across = tangents[0] * tangents[1] * np.sin(between)
    cosine = np.clip(2 * np.sqrt(np.maximum(apart, 0) + across**2) / slant, -1, 1)
    angle = np.arccos(cosine)
    overlap = (angle - np.sin(angle) * cosine) * slant / np.pi
    seen = (1 + _phase(sun, view, between)) / (2 * np.cos(sun) * np.cos(view))
    return np.asarray(overlap - slant + seen)


def _track(orbit: int) -> tuple[FloatArray, FloatArray]:
    """Return longitude and latitude of the ground track of an orbit on the day side, degrees, every 5 km or less."""
    along = np.linspace(np.pi / 2, 3 * np.pi / 2, 4001)  # since the northward crossing of the equator
    north = np.arcsin(np.sin(_INCLINATION) * np.sin(along))
    east = np.arctan2(np.cos(_INCLINATION) * np.sin(along), np.cos(along)) - np.pi
    crossing = _FIRST_CROSSING - (orbit - 1) * 360 * _DAYS / _TRACKS
    # The plane of the orbit turns with the sun, below it the earth once a day.
    turned = (along - np.pi) / (2 * np.pi) * 360 * _DAYS / _TRACKS
    longitude = (crossing + np.degrees(east) - turned + 180) % 360 - 180
    return longitude, np.degrees(np.arctan(np.tan(north) / _FLATTENED))


def _directions(longitude: FloatArray, latitude: FloatArray) -> FloatArray:
    """Return unit vectors `(place, 3)`."""
    east, north = np.radians(longitude), np.radians(latitude)
    return np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=1)
