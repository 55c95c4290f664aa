"""Whether a file is what its item says: grid, projection, resolution and data type, each named by both.

What the item leaves out is the file's to say, and where both speak they must agree: a cell that is planned from wrong
fields would be another piece of ground.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import pyproj
import pystac
from odc.geo.geobox import GeoBox
from pyproj.exceptions import CRSError as ProjectionError
from rasterio.crs import CRS
from rasterio.errors import CRSError

from stac.errors import InvalidItem
from stac.io.raster import FileFacts

#: Declared corners may differ by the rounding of a catalog, pixels.
_TOLERANCE = 0.01
#: Pixel sizes that differ less are meant to be the same; `gsd` is nominal and may differ more.
_SAME_SIZE, _SAME_GSD = 1.05, 1.4
#: Grids of two resolutions may end so many of the coarser pixels apart.
_SLACK = 2.0


@dataclass(frozen=True, slots=True)
class Grid:
    """A pixel grid in the words of an item or an asset; empty where it says nothing.

    Fields that describe no grid raise `InvalidItem`.
    """

    #: Field and value of every projection that is named.
    codes: tuple[tuple[str, str], ...] = ()
    #: Rows, columns.
    shape: tuple[int, ...] = ()
    #: Affine coefficients a, b, c, d, e, f.
    transform: tuple[float, ...] = ()

    @classmethod
    def of(cls, fields: Mapping[str, Any], name: str) -> Grid:
        """Return what some fields say."""
        return cls(tuple(_codes(fields)), _shape(fields.get("proj:shape"), name), _transform(fields, name))


@dataclass(frozen=True, slots=True)
class Declared:
    """What an item says about the file of an asset."""

    asset: Grid = Grid()
    item: Grid = Grid()
    #: Nominal pixel size of the asset, metres; None where nothing is said.
    gsd: float | None = None
    #: Data type as numpy names it; "" where nothing is said.
    dtype: str = ""

    @classmethod
    def of(cls, item: pystac.Item, asset: pystac.Asset) -> Declared:
        """Return what an item declares."""
        name = f"Item {item.id}"
        return cls(
            Grid.of(asset.extra_fields, name),
            Grid.of(item.properties, name),
            resolution(asset),
            _data_type(asset),
        )

    @property
    def code(self) -> str:
        """The projection, from the asset before the item; empty where it is not named."""
        codes = (*self.asset.codes, *self.item.codes)
        return codes[0][1] if codes else ""


UNDECLARED = Declared()


def resolution(asset: pystac.Asset) -> float | None:
    """Return the pixel size that an asset declares, metres; None where it does not say."""
    fields = asset.extra_fields
    for value in (fields.get("gsd"), *(band.get("spatial_resolution") for band in band_fields(asset, "raster:bands"))):
        if _is_number(value) and value > 0:
            return float(value)
    return None


def band_fields(asset: pystac.Asset, name: str) -> list[Mapping[str, Any]]:
    """Return a list of bands of an asset, those that are objects."""
    bands = asset.extra_fields.get(name)
    return [band for band in bands if isinstance(band, Mapping)] if isinstance(bands, list) else []


def require_as_declared(facts: FileFacts, declared: Declared, name: str) -> None:
    """Raise unless a file is what its item declares.

    Args:
        facts: what the file says.
        declared: the words of its item; what they leave out is not compared.
        name: of the asset, for messages.

    Raises:
        InvalidItem: they differ; both values are named.
    """
    real, shape, crs = facts.transform, facts.shape, CRS.from_wkt(facts.crs_wkt)
    for field, code in (*declared.asset.codes, *declared.item.codes):
        if not _same_projection(crs, code):
            raise InvalidItem(_contradiction(name, field, code, crs.to_string()))
    own = declared.asset
    if own.shape and own.shape != shape:
        raise InvalidItem(_contradiction(name, "proj:shape", list(own.shape), list(shape)))
    if own.transform and not _same_place(own.transform, real):
        raise InvalidItem(_contradiction(name, "proj:transform", list(own.transform), list(real)))
    _require_item_grid(declared.item, shape, real, name)
    size = math.sqrt(abs(real[0] * real[4] - real[1] * real[3]))
    if declared.gsd and crs.is_projected and not _alike(declared.gsd, size * _metres(crs), _SAME_GSD):
        raise InvalidItem(_contradiction(name, "gsd", f"{declared.gsd:g} m", f"pixels of {size:g}"))
    if declared.dtype and facts.bands and declared.dtype != facts.bands[0].dtype:
        raise InvalidItem(_contradiction(name, "data_type", declared.dtype, facts.bands[0].dtype))


def _require_item_grid(said: Grid, shape: tuple[int, ...], real: tuple[float, ...], name: str) -> None:
    """Raise unless the grid that an item declares for its assets in common is that of a file, or covers its ground.

    It is that of the finest bands as a rule, and says about a coarser file where it ends.
    """
    if not said.transform:
        if said.shape and not _same_aspect(said.shape, shape):
            raise InvalidItem(_contradiction(name, "proj:shape", list(said.shape), list(shape)))
        return
    sizes, own = _sizes(said.transform), _sizes(real)
    if all(_alike(one, other, _SAME_SIZE) for one, other in zip(sizes, own, strict=True)):
        if not _same_place(said.transform, real):
            raise InvalidItem(_contradiction(name, "proj:transform", list(said.transform), list(real)))
        if said.shape and said.shape != shape:
            raise InvalidItem(_contradiction(name, "proj:shape", list(said.shape), list(shape)))
        return
    reach = _SLACK * max(*sizes[:1], *own)
    ends = _ends(said.transform, said.shape or (0, 0)), _ends(real, shape if said.shape else (0, 0))
    if not np.allclose(*ends, rtol=0, atol=reach):
        both = [list(said.shape), list(said.transform)], [list(shape), list(real)]
        raise InvalidItem(_contradiction(name, "proj:shape and proj:transform", *both))


def _contradiction(name: str, field: str, said: object, found: object) -> str:
    return f"{name}: the item declares {field} {said}, the file has {found}; correct the item or leave the scene out."


def _codes(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if code := fields.get("proj:code"):
        yield "proj:code", f"EPSG:{code}" if str(code).isdigit() else str(code)
    if epsg := fields.get("proj:epsg"):
        yield "proj:epsg", f"EPSG:{str(epsg).upper().removeprefix('EPSG:')}"
    if wkt := fields.get("proj:wkt2"):
        yield "proj:wkt2", str(wkt)
    if isinstance(projjson := fields.get("proj:projjson"), dict) and projjson:
        try:
            yield "proj:projjson", pyproj.CRS.from_json_dict(projjson).to_wkt()
        except ProjectionError:
            yield "proj:projjson", str(projjson)


def _shape(value: Any, name: str) -> tuple[int, ...]:
    if value is None:
        return ()
    numbers = value if isinstance(value, list | tuple) else ()
    if len(numbers) != 2 or not all(_is_number(n) and float(n).is_integer() and n > 0 for n in numbers):
        raise InvalidItem(f"{name} declares proj:shape {value!r}; expected rows and columns.")
    return tuple(int(n) for n in numbers)


def _transform(fields: Mapping[str, Any], name: str) -> tuple[float, ...]:
    value = fields.get("proj:transform")
    if value is None:
        return ()
    numbers = value if isinstance(value, list | tuple) else ()
    if len(numbers) not in (6, 9) or not all(_is_number(n) for n in numbers):
        raise InvalidItem(f"{name} declares proj:transform {value!r}; expected six or nine numbers.")
    return tuple(numbers[:6])


def _data_type(asset: pystac.Asset) -> str:
    places = (*band_fields(asset, "bands")[:1], *band_fields(asset, "raster:bands")[:1], asset.extra_fields)
    said = next((str(place["data_type"]) for place in places if place.get("data_type")), "")
    try:
        return str(np.dtype(said)) if said else ""
    except TypeError:
        return ""


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _same_projection(real: CRS, code: str) -> bool:
    try:
        if real == CRS.from_user_input(code):
            return True
        return bool(pyproj.CRS.from_wkt(real.to_wkt()).equals(pyproj.CRS.from_user_input(code), ignore_axis_order=True))
    except (CRSError, ProjectionError, ValueError):
        return False


def pixel_side_m(geobox: GeoBox) -> float | None:
    """Return the side of a pixel, metres, of the one in the middle where pixels are in degrees; None if unknown."""
    affine, crs = geobox.affine, geobox.crs
    if crs is None or not (crs.projected or crs.geographic):
        return None
    if crs.projected:
        return math.sqrt(abs(affine.determinant)) * float(crs.proj.axis_info[0].unit_conversion_factor)
    row, column = (length / 2 for length in geobox.shape)
    corners = [affine @ at for at in ((column, row), (column + 1, row), (column + 1, row + 1), (column, row + 1))]
    area, _ = crs.proj.get_geod().polygon_area_perimeter(*zip(*corners, strict=True))
    # An area that is not a number lies beyond the poles: the grid says nothing that can be used.
    return math.sqrt(abs(area)) if abs(area) > 0 else None


def _metres(crs: CRS) -> float:
    """Return the length of a projection's unit, metres."""
    return float(crs.linear_units_factor[1])


def _same_place(declared: tuple[float, ...], real: tuple[float, ...]) -> bool:
    pixel = max(_sizes(real))
    return bool(np.allclose(np.array(declared, float), real, rtol=0, atol=_TOLERANCE * pixel))


def _sizes(transform: tuple[float, ...]) -> tuple[float, float]:
    """Return width and height of a pixel."""
    a, b, _, d, e, _ = transform
    return math.hypot(a, d), math.hypot(b, e)


def _ends(transform: tuple[float, ...], shape: tuple[int, ...]) -> list[float]:
    """Return the first and the last corner, x and y."""
    a, b, c, d, e, f = transform
    rows, columns = shape
    return [c, f, c + a * columns + b * rows, f + d * columns + e * rows]


def _same_aspect(said: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Return whether two shapes are those of one ground in two resolutions."""
    factor = said[0] / shape[0]
    return abs(said[1] - shape[1] * factor) <= _SLACK * max(1.0, factor)


def _alike(one: float, other: float, ratio: float) -> bool:
    return one > 0 and other > 0 and max(one / other, other / one) < ratio
