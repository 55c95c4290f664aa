"""A fixed grid of square cells over any area: the same cells on every machine, whatever part of them is asked for.

With `crs=None` every UTM zone has its own grid. A pixel belongs to the zone and hemisphere in which its centre lies, so
cells at the border of a zone hold only their own side of it, and no ground is restored twice. The zones are the plain
six degrees; the exceptions of MGRS around Norway and Svalbard concern names of tiles, not projections.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import shapely
from odc.geo import res_, xy_
from odc.geo.crs import CRS, CRSError
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox, Geometry
from odc.geo.gridspec import GridSpec as OdcGridSpec
from shapely.geometry.base import BaseGeometry

from stac.errors import InvalidQuery
from stac.grid.cell import Cell
from stac.grid.footprint import BBox, around, box_across, box_around, outline_of_grid

_ZONE_DEG = 6
#: Nothing is restored on finer or coarser grids; metres, pixels. Planning more cells takes hours.
_FINEST_M, _COARSEST_M, _LARGEST_CELL, _MOST_CELLS = 0.01, 100_000, 100_000, 500_000
_FARTHEST_M = 1e8
#: UTM ends here; further north and south a polar projection must be named, degrees.
_UTM_LIMIT = 84
#: Outlines are projected with a vertex at least every so many degrees, and grown by what that misses, metres.
_DENSITY_DEG, _MARGIN_M = 0.02, 0.1
_NUMBER = r"-?\d+"


@dataclass(frozen=True, slots=True)
class GridSpec:
    """A grid: two grids with the same fields have the same cells with the same ids."""

    #: Pixel size, metres.
    resolution_m: float = 10
    #: Side of a cell, pixels.
    cell_pixels: int = 2048
    #: EPSG code of one projection in metres for all cells; None takes the UTM zone of each.
    crs: int | None = None
    #: A corner (x, y) of the cell r0c0, metres: shifts the grid so that its pixels are those of an archive.
    origin_m: tuple[float, float] = (0, 0)

    def __post_init__(self) -> None:
        """Raise `InvalidQuery` when there is no such grid."""
        if not (_FINEST_M <= self.resolution_m <= _COARSEST_M and 0 < self.cell_pixels <= _LARGEST_CELL):
            raise InvalidQuery(
                f"A grid of {self.cell_pixels} pixels of {self.resolution_m:g} m has no cells; choose a resolution of "
                f"{_FINEST_M:g} to {_COARSEST_M:g} m and cells of {_LARGEST_CELL} pixels at most."
            )
        if not all(abs(each) <= _FARTHEST_M for each in self.origin_m):  # NaN is not either
            raise InvalidQuery(f"Origin {self.origin_m} lies outside the world; give x,y in metres.")
        if self.crs is not None:
            self._require_metres(self.crs)

    def _require_metres(self, code: int) -> None:
        try:
            crs = CRS(f"EPSG:{code}")
        except CRSError as error:
            raise InvalidQuery(f"EPSG:{code} is not a known projection; name another with --grid-crs.") from error
        # Not `crs.units`: both axes of a polar projection point the same way, and odc-geo finds one of them only.
        if not crs.projected or {axis.unit_name for axis in crs.proj.axis_info} != {"metre"}:
            raise InvalidQuery(f"EPSG:{code} is not in metres; name a projection such as 3035 or 6933.")

    def cells(self, area: BBox | BaseGeometry) -> list[Cell]:
        """Return the cells that an area touches, sorted by id.

        Args:
            area: west, south, east, north in degrees, west above east across the antimeridian; or an outline in
                degrees whose longitudes do not jump (they may leave -180..180).

        Raises:
            InvalidQuery: it reaches beyond UTM and no other projection is named.
        """
        outline = area if isinstance(area, BaseGeometry) else box_across(area)
        found = {cell.id: cell for code, part in self._parts(outline) for cell in self._touched(code, part)}
        return [found[name] for name in sorted(found)]

    def cell(self, name: str) -> Cell:
        """Return the cell of an id.

        Raises:
            InvalidQuery: the id is not one of this grid.
        """
        match = re.fullmatch(rf"(utm\d\d[ns]|epsg\d+)-.*-r({_NUMBER})c({_NUMBER})", name)
        code = _code_of(match[1]) if match else None
        if match is None or code is None or self._name(code, int(match[2]), int(match[3])) != name:
            raise InvalidQuery(f"{name} is not a cell of the grid {self.describe()}.")
        return self._cell(code, int(match[2]), int(match[3]))

    def describe(self) -> str:
        """Return what all ids of the grid have in common, without the projection."""
        x, y = self.origin_m
        shifted = f"-x{x:g}y{y:g}" if (x, y) != (0, 0) else ""
        return f"{self.resolution_m:g}m-{self.cell_pixels}px{shifted}"

    def _name(self, code: int, row: int, column: int) -> str:
        north, zone = code // 100 == 326, code % 100
        frame = f"utm{zone:02d}{'n' if north else 's'}" if self.crs is None else f"epsg{code}"
        return f"{frame}-{self.describe()}-r{row}c{column}"

    def _parts(self, outline: BaseGeometry) -> Iterator[tuple[int, BaseGeometry]]:
        """Yield (EPSG code, part of the outline) for every projection the outline needs."""
        west, south, east, north = outline.bounds
        if self.crs is not None:
            yield self.crs, outline
            return
        if south < -_UTM_LIMIT or north > _UTM_LIMIT:
            raise InvalidQuery(
                f"Latitudes {south:g} to {north:g} reach beyond UTM; name a polar projection with --grid-crs."
            )
        for turn in range(math.floor(west / _ZONE_DEG), math.floor(east / _ZONE_DEG) + 1):
            zone = (turn + 180 // _ZONE_DEG) % 60 + 1
            for base, low, high in ((32600, 0, 90), (32700, -90, 0)):
                part = outline.intersection(shapely.box(turn * _ZONE_DEG, low, (turn + 1) * _ZONE_DEG, high))
                if part.area > 0:
                    yield base + zone, part

    def _touched(self, code: int, part: BaseGeometry) -> Iterator[Cell]:
        crs = CRS(f"EPSG:{code}")
        projected = Geometry(part, "EPSG:4326").to_crs(crs, resolution=_DENSITY_DEG).buffer(_MARGIN_M)
        # What only the margin touches is not part of the area.
        least = 2 * _MARGIN_M * self.cell_pixels * self.resolution_m
        self._check_number(projected.boundingbox)
        for (column, row), geobox in self._grid(code).tiles(projected.boundingbox):
            if projected.geom.intersection(geobox.extent.geom).area > least:
                yield self._cell(code, row, column)

    def _check_number(self, box: BoundingBox) -> None:
        """Raise `InvalidQuery` where there are more cells than can be planned."""
        side = self.cell_pixels * self.resolution_m
        if (box.span_x / side + 1) * (box.span_y / side + 1) > _MOST_CELLS:
            raise InvalidQuery(
                f"The area has more than {_MOST_CELLS} cells of {side:g} m: choose a smaller --bbox, or larger cells "
                "(--resolution, --cell-size)."
            )

    def _grid(self, code: int) -> OdcGridSpec:
        side = (self.cell_pixels, self.cell_pixels)
        return OdcGridSpec(f"EPSG:{code}", side, res_(self.resolution_m), origin=xy_(*self.origin_m))

    def _cell(self, code: int, row: int, column: int) -> Cell:
        geobox = self._grid(code)[column, row]
        domain = _domain_of(code) if self.crs is None else None
        if domain is not None and _lies_within(geobox, domain):
            domain = None
        return Cell(self._name(code, row, column), geobox, domain)


def outline_of_cell(cell: Cell) -> BaseGeometry:
    """Return the outline of the ground that is a cell's own, in degrees around its centre."""
    outline = outline_of_grid(cell.geobox)
    return outline if cell.owned is None else outline.intersection(box_around(cell.owned, float(outline.centroid.x)))


def _code_of(frame: str) -> int:
    """Return the EPSG code of the first word of an id: `utm33n` or `epsg3035`."""
    if frame.startswith("epsg"):
        return int(frame.removeprefix("epsg"))
    return (32600 if frame.endswith("n") else 32700) + int(frame[3:5])


def _domain_of(code: int) -> BBox:
    """Return west, south, east, north of a UTM zone's half, degrees."""
    west = (code % 100 - 1) * _ZONE_DEG - 180
    south, north = (0, 90) if code // 100 == 326 else (-90, 0)
    return west, south, west + _ZONE_DEG, north


def _lies_within(geobox: GeoBox, domain: BBox) -> bool:
    zone = shapely.box(*domain)
    return bool(zone.contains(around(outline_of_grid(geobox), float(zone.centroid.x))))
