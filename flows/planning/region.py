"""The region that mosaics cover: from a box or a GeoJSON file, with the grid on which its dates are matched."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.errors import ShapelyError
from shapely.geometry.base import BaseGeometry

from flows.errors import InvalidSettings
from flows.settings import RunSettings
from flows.settings.mosaic_options import MosaicOptions
from stac.catalog.validation import safe_id
from stac.grid.cell import Cell
from stac.grid.fixed import outline_of_cell
from stac.grid.footprint import around

#: Wider regions of several projections are matched on an equal-area grid, degrees.
_WIDEST_DEG, _WIDE_CRS = 12.0, "EPSG:6933"
#: A wider ring is one that jumps from 179 to -179, degrees.
_HALF_WORLD = 180.0


@dataclass(frozen=True, slots=True)
class Region:
    """What is mosaicked."""

    name: str
    #: `west,south,east,north` in degrees; None for everything that the source has.
    bbox: str | None
    #: In degrees; None for the whole box.
    outline: BaseGeometry | None = None

    def holds(self, cell: Cell) -> bool:
        """Return whether a cell touches the region."""
        if self.outline is None:
            return True
        ground = outline_of_cell(cell)
        return bool(around(self.outline, float(ground.centroid.x)).intersects(ground))


def region_of(settings: RunSettings, options: MosaicOptions) -> Region:
    """Return the region of some settings.

    Raises:
        InvalidSettings: the GeoJSON file cannot be read, or holds no area.
    """
    if options.region is None:
        made = "all" if settings.bbox is None else f"box{hashlib.sha256(settings.bbox.encode()).hexdigest()[:6]}"
        return Region(safe_id(options.name or made), settings.bbox)
    outline = _geojson(options.region)
    return Region(safe_id(options.name or options.region.stem), _box(outline), outline)


def _geojson(path: Path) -> BaseGeometry:
    try:
        document = json.loads(path.read_text("utf-8"))
        features = document["features"] if document.get("type") == "FeatureCollection" else [document]
        shapes = [shapely.geometry.shape(each.get("geometry") or each) for each in features]
        found = shapely.make_valid(shapely.union_all(shapes))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ShapelyError) as error:
        said = (error.strerror or "" if isinstance(error, OSError) else str(error)).splitlines()
        reason = said[0] if said else type(error).__name__
        raise InvalidSettings(f"Region {path} cannot be read as GeoJSON ({reason}); check --region.") from error
    west, south, east, north = found.bounds if not found.is_empty else (0, 0, 0, 0)
    if found.area == 0 or not (west >= -180 and east <= 180 and south >= -90 and north <= 90):
        raise InvalidSettings(f"Region {path} holds no area in degrees; give a polygon in longitude and latitude.")
    widest = max(right - left for left, right in _spans(found))
    if widest > _HALF_WORLD:
        raise InvalidSettings(
            f"Region {path} has a part {widest:g} degrees wide, as a ring across the antimeridian has; cut it there in "
            "two (RFC 7946), and parts that are really wider than 180 degrees anywhere, or give --bbox."
        )
    return found


def _spans(outline: BaseGeometry) -> list[tuple[float, float]]:
    """Return the longitudes of each part of an outline, from west to east."""
    bounds = [part.bounds for part in getattr(outline, "geoms", [outline])]
    return sorted((west, east) for west, _, east, _ in bounds)


def _box(outline: BaseGeometry) -> str:
    """Return the narrowest box of an outline, west above east where that one crosses the antimeridian."""
    spans = _spans(outline)
    west, south, east, north = outline.bounds
    widest = 360 - (east - west)
    reached = spans[0][1]
    for start, end in spans[1:]:
        # Left out is the widest gap between two parts, or the one at the antimeridian.
        if start - reached > widest:
            widest, west, east = start - reached, start, reached
        reached = max(reached, end)
    return f"{west!r},{south!r},{east!r},{north!r}"


def overview_cell(cells: Sequence[Cell], crs: str | None = None) -> Cell:
    """Return a cell that holds all others.

    Args:
        cells: in one projection or several.
        crs: its projection; that of most of them when left out, or an equal-area one where they lie far apart.
    """
    if crs is None:
        number = Counter(str(cell.geobox.crs) for cell in cells)
        longitudes = [float(outline_of_cell(cell).centroid.x) for cell in cells]
        wide = len(number) > 1 and _spread(longitudes) > _WIDEST_DEG
        crs = _WIDE_CRS if wide else min(number, key=lambda name: (-number[name], name))
    own = [cell.geobox for cell in cells if str(cell.geobox.crs) == crs]
    affine = own[0].affine if own else Affine(cells[0].gsd_m, 0, 0, 0, -cells[0].gsd_m, 0)
    base = GeoBox((1, 1), affine, crs)
    corners = [
        base.wld2pix(x, y)
        for box in (cell.geobox.extent.to_crs(crs).boundingbox for cell in cells)
        for x in (box.left, box.right)
        for y in (box.bottom, box.top)
    ]
    columns, rows = zip(*corners, strict=True)
    left, top = math.floor(min(columns) + 1e-6), math.floor(min(rows) + 1e-6)
    width, height = math.ceil(max(columns) - 1e-6) - left, math.ceil(max(rows) - 1e-6) - top
    return Cell("region", GeoBox((height, width), affine * Affine.translation(left, top), crs))


def _spread(longitudes: Sequence[float]) -> float:
    """Return the width of the smallest arc that holds some longitudes, degrees, also across the antimeridian."""
    ordered = sorted(longitude % 360 for longitude in longitudes)
    gaps = [after - before for before, after in zip(ordered, [*ordered[1:], ordered[0] + 360], strict=True)]
    return 360 - max(gaps)
