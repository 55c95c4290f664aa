"""The STAC item of a whole region of mosaics, with files that open all of its cells at once: VRTs and MosaicJSON."""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, unescape

import morecantile
import numpy as np
import pystac
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from stac.grid.footprint import around, cut
from stac.io.files import write_bytes, write_json
from stac.io.raster import epsg_code
from stac.product.assets import COG_TYPE, file_asset, file_info, grid_fields
from stac.product.cog import RasterSpec, write_cog
from stac.product.item import (
    Extension,
    first_version,
    geometry_of,
    projection,
)
from stac.product.preview import RGB, write_thumbnail
from stac.product.writer import BandTally
from stac.reflectance import PRODUCT_NODATA

#: Of every region item.
REGION_EXTENSIONS = (Extension.PROJECTION, Extension.FILE, Extension.PROCESSING, Extension.VERSION)
#: Sides of the overview are multiples of this, pixels.
_MULTIPLE = 8
#: Longer side of the overview, pixels.
_OVERVIEW_PX = 2048
#: Pixels of two cells coincide when their corners differ by so much of a pixel at most.
_SAME_PIXEL = 1e-3
#: Key of the asset that only regions have, and its file.
MOSAIC_JSON, _MOSAIC_JSON = "mosaicjson", "mosaic.json"
#: A file that a VRT is made of, relative to the collection of the VRT.
_SOURCE = re.compile(r'relativeToVRT="1">(?:\.\./)+([^<]*)<')
#: Tiles of the web's maps, and most of them that a MosaicJSON lists along a side.
_WEB, _MOST_TILES = morecantile.tms.get("WebMercatorQuad"), 64


@dataclass(frozen=True, slots=True)
class CellFile:
    """A published cell, as far as a region needs it."""

    item_id: str
    geobox: GeoBox
    #: Outline in degrees, longitudes around the cell's centre.
    outline: shapely.geometry.base.BaseGeometry
    #: Folder of its files relative to the collection: `ITEM`, on S3 `ITEM/CHECKSUM`.
    folder: str
    #: Where its picture is read from now.
    visual: str


@dataclass(frozen=True, slots=True)
class RegionRecord:
    """What an item says about a mosaic of a region."""

    item_id: str
    work_id: str
    region: str
    period: str
    start: datetime
    end: datetime
    method: str
    reference: str
    bands: tuple[str, ...]
    cells: tuple[CellFile, ...]
    #: Address of the collection's folder for readers of the MosaicJSON, ending in a slash.
    address: str
    software_version: str
    created: datetime


def build_region_item(record: RegionRecord, folder: Path, radiometry: Mapping[str, Any]) -> pystac.Item:
    """Write the files of a region into a folder and return its item; hrefs are relative to the item.

    Args:
        record: of the region.
        folder: where to.
        radiometry: how its dates became one, JSON values.

    Raises:
        DiskFull, NotWritable: the folder cannot be written.
        RasterioError: a cell cannot be read.
    """
    grid = overview_grid([cell.geobox for cell in record.cells])
    picture = draw(record.cells, grid)
    write_cog(folder / "overview.tif", picture, grid, RasterSpec(0, rgb=True))
    write_thumbnail(folder / "thumbnail.png", picture)
    write_json(folder / "radiometry.json", dict(radiometry))
    write_json(folder / _MOSAIC_JSON, mosaic_json(record))
    vrts = vrt_names(record.cells)
    for name, cells in vrts.items():
        write_bytes(folder / f"{name}.vrt", vrt(cells, record.bands).encode())
    item = _item(record, grid)
    for key, asset in _assets(grid, folder, tuple(vrts)).items():
        item.add_asset(key, asset)
    for cell in record.cells:
        href = f"../{cell.item_id}/{cell.item_id}.json"
        item.add_link(pystac.Link("derived_from", href, "application/geo+json", cell.item_id))
    return item


def _item(record: RegionRecord, grid: GeoBox) -> pystac.Item:
    geometry, box = geometry_of(_whole(record))
    return pystac.Item(
        id=record.item_id,
        geometry=geometry,
        bbox=list(box),
        datetime=None,
        start_datetime=record.start,
        end_datetime=record.end,
        stac_extensions=[str(extension) for extension in REGION_EXTENSIONS],
        properties={
            "title": f"{record.region} {record.period}, whole region",
            "description": f"{len(record.cells)} cells of one radiometry, that of {record.reference}. Open the VRT in "
            "QGIS, the MosaicJSON in titiler.",
            **first_version(record.created),
            **projection(grid.crs),
            "processing:level": "L3",
            "processing:software": {"unveil-eo": record.software_version},
            "unveil:work_id": record.work_id,
            "unveil:region": record.region,
            "unveil:period": record.period,
            "unveil:method": record.method,
            "unveil:reference": record.reference,
            "unveil:cells": len(record.cells),
        },
    )


def _whole(record: RegionRecord) -> shapely.geometry.base.BaseGeometry:
    """Return the outline of all cells in degrees; beyond 180 where it crosses the antimeridian."""
    middle = float(record.cells[0].outline.centroid.x)
    return shapely.union_all([around(cell.outline, middle) for cell in record.cells])


def _assets(grid: GeoBox, folder: Path, vrts: Sequence[str]) -> dict[str, pystac.Asset]:
    statistics = _statistics(folder / "overview.tif")
    bands = [
        {"name": n, "data_type": "uint8", "nodata": 0, "statistics": s} for n, s in zip(RGB, statistics, strict=True)
    ]
    fields = grid_fields(grid) | {"bands": bands}
    files: dict[str, tuple[str, str, str, list[str]]] = {
        "overview": ("overview.tif", COG_TYPE, "Natural colour of the whole region, thinned", ["visual", "overview"]),
        "thumbnail": ("thumbnail.png", "image/png", "Thumbnail", ["thumbnail"]),
        MOSAIC_JSON: (_MOSAIC_JSON, "application/json", "MosaicJSON of all cells, for titiler", ["metadata"]),
        "radiometry": ("radiometry.json", "application/json", "How the dates became one radiometry", ["metadata"]),
    }
    for name in vrts:
        files[name] = (
            f"{name}.vrt",
            "application/xml",
            "Surface reflectance of all cells, for GDAL and QGIS",
            ["data"],
        )
    return {
        key: file_asset(folder / file, kind, title, roles, fields if key == "overview" else None)
        for key, (file, kind, title, roles) in files.items()
    }


def _statistics(path: Path) -> list[dict[str, float]]:
    with rasterio.open(path) as source:
        pixels = source.read()
    found = []
    for band in pixels:
        tally = BandTally(0)
        tally.add(band)
        found.append(tally.statistics)
    return found


def overview_grid(cells: Sequence[GeoBox]) -> GeoBox:
    """Return a grid that holds all cells, in the projection of most of them, its longer side `_OVERVIEW_PX` at most."""
    number: dict[str, int] = defaultdict(int)
    for cell in cells:
        number[str(cell.crs)] += 1
    crs = min(number, key=lambda name: (-number[name], name))
    boxes = [cell.extent.to_crs(crs).boundingbox for cell in cells]
    left, bottom = min(b.left for b in boxes), min(b.bottom for b in boxes)
    right, top = max(b.right for b in boxes), max(b.top for b in boxes)
    finest = min(abs(float(cell.resolution.x)) for cell in cells)
    side = max(finest, (right - left) / _OVERVIEW_PX, (top - bottom) / _OVERVIEW_PX)
    # Whole multiples, so that pixels of its overviews are square (`overview_factors`).
    shape = tuple(math.ceil(length / side / _MULTIPLE - 1e-6) * _MULTIPLE for length in (top - bottom, right - left))
    return GeoBox(shape, Affine(side, 0, left, 0, -side, top), CRS(crs))


def draw(cells: Sequence[CellFile], grid: GeoBox) -> NDArray[np.uint8]:
    """Return the pictures of all cells on one grid, red, green, blue `(3, y, x)`, 0 where there is none.

    Args:
        cells: of any projection; the first that has data at a pixel is drawn there.
        grid: what is drawn on.
    """
    picture = np.zeros((3, *grid.shape), np.uint8)
    for cell in cells:
        box = cell.geobox.extent.to_crs(grid.crs).boundingbox
        (left, top), (right, bottom) = grid.wld2pix(box.left, box.top), grid.wld2pix(box.right, box.bottom)
        rows = slice(max(0, math.floor(top)), min(grid.shape[0], math.ceil(bottom)))
        columns = slice(max(0, math.floor(left)), min(grid.shape[1], math.ceil(right)))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        window = grid[rows, columns]
        options = {
            "crs": window.crs.to_wkt(), "transform": window.affine, "height": window.shape[0], "width": window.shape[1],
            "resampling": Resampling.average, "src_nodata": 0, "nodata": 0,
        }  # fmt: skip
        with rasterio.open(cell.visual) as source, WarpedVRT(source, **options) as warped:
            found = warped.read()
        view = picture[:, rows, columns]
        np.copyto(view, found, where=(view == 0).all(axis=0))
    return picture


def vrt_names(cells: Sequence[CellFile]) -> dict[str, list[CellFile]]:
    """Return the cells of every VRT of a region by its name: those whose pixels lie on one grid.

    A further grid of the same projection, such as tiles half a pixel apart, has a number in its name.
    """
    grids: list[list[CellFile]] = []
    for cell in cells:
        grid = next((grid for grid in grids if _place_in(grid[0].geobox, cell.geobox) is not None), None)
        if grid is None:
            grids.append([cell])
        else:
            grid.append(cell)
    names: dict[str, list[CellFile]] = {}
    for grid in grids:
        name = _vrt_name(str(grid[0].geobox.crs))
        before = sum(known == name or known.startswith(f"{name}-") for known in names)
        names[f"{name}-{before + 1}" if before else name] = grid
    return dict(sorted(names.items()))


def _vrt_name(crs: str) -> str:
    """Return `data-epsg32633`, of a projection without a code a name that is made of its definition."""
    code = epsg_code(CRS(crs)) or f"projection-{hashlib.sha256(crs.encode()).hexdigest()[:8]}"
    return f"data-{code.lower().replace(':', '')}"


def _place_in(grid: GeoBox, cell: GeoBox) -> tuple[int, int] | None:
    """Return column and row of a cell's first pixel in another grid, None where their pixels do not coincide."""
    one, other = ((box.affine.a, box.affine.b, box.affine.d, box.affine.e) for box in (grid, cell))
    if grid.crs != cell.crs or not np.allclose(one, other, rtol=1e-9, atol=1e-9):
        return None
    column, row = grid.wld2pix(cell.affine.c, cell.affine.f)
    if max(abs(column - round(column)), abs(row - round(row))) > _SAME_PIXEL:
        return None
    return round(column), round(row)


def vrt(cells: Sequence[CellFile], bands: Sequence[str]) -> str:
    """Return a VRT of the reflectance of cells whose pixels lie on one grid (`vrt_names`).

    Paths are relative to the folder of the region's files, so a catalog can be moved; it lies as deep as those of the
    cells. Pixels of later cells lie on top.
    """
    first = cells[0].geobox
    corners = [_place_in(first, cell.geobox) or (0, 0) for cell in cells]
    left, top = min(x for x, _ in corners), min(y for _, y in corners)
    places = [(x - left, y - top, *map(int, cell.geobox.shape)) for (x, y), cell in zip(corners, cells, strict=True)]
    width, height = max(x + w for x, _, _, w in places), max(y + h for _, y, h, _ in places)
    origin = first.affine @ Affine.translation(left, top)
    up = "../" * (1 + cells[0].folder.count("/"))
    lines = [
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">',
        f"<SRS>{escape(first.crs.to_wkt())}</SRS>",
        f"<GeoTransform>{', '.join(repr(float(number)) for number in origin.to_gdal())}</GeoTransform>",
    ]
    for number, band in enumerate(bands, 1):
        lines += [
            f'<VRTRasterBand dataType="UInt16" band="{number}">',
            f"<Description>{escape(band)}</Description>",
        ]
        lines += [f"<NoDataValue>{PRODUCT_NODATA}</NoDataValue>", "<Scale>0.0001</Scale>"]
        for cell, (x, y, h, w) in zip(cells, places, strict=True):
            lines += [
                "<ComplexSource>",
                f'<SourceFilename relativeToVRT="1">{up}{escape(cell.folder)}/data.tif</SourceFilename>',
                f"<SourceBand>{number}</SourceBand>",
                f'<SrcRect xOff="0" yOff="0" xSize="{w}" ySize="{h}"/>',
                f'<DstRect xOff="{x}" yOff="{y}" xSize="{w}" ySize="{h}"/>',
                f"<NODATA>{PRODUCT_NODATA}</NODATA></ComplexSource>",
            ]
        lines.append("</VRTRasterBand>")
    return "\n".join([*lines, "</VRTDataset>", ""])


def repoint(folder: Path, item: pystac.Item, folders: Mapping[str, str], address: str) -> None:
    """Let VRTs and MosaicJSON of a region find its cells where another catalog has them; the item follows.

    Args:
        folder: of the region's files, which are changed.
        item: of the region; it gets their sizes and checksums.
        folders: of the cells' files there, relative to that of the collection, by the id of the cell.
        address: of the collection there, as in a `RegionRecord`.
    """

    def moved(path: str) -> str:
        cell, _, rest = path.partition("/")
        return f"{folders.get(cell, cell)}/{posixpath.basename(rest)}"

    def source(found: re.Match[str]) -> str:
        path = moved(unescape(found[1]))
        return f'relativeToVRT="1">{"../" * path.count("/")}{escape(path)}<'

    for asset in item.assets.values():
        path = folder / asset.href
        if path.suffix == ".vrt":
            write_bytes(path, _SOURCE.sub(source, path.read_text("utf-8")).encode())
        elif path.name == _MOSAIC_JSON:
            document = json.loads(path.read_bytes())
            tiles = {key: [moved(path) for path in paths] for key, paths in document["tiles"].items()}
            write_json(path, document | {"tiles": tiles, "asset_prefix": address})
        else:
            continue
        asset.extra_fields |= file_info(path)


def mosaic_json(record: RegionRecord) -> dict[str, Any]:
    """Return a MosaicJSON 0.0.3 of the cells' pictures; `asset_prefix` is the only place that names where they are."""
    west, south, east, north = _whole(record).bounds
    across = west < -180 or east > 180
    middle = ((west + east) / 2 + 180) % 360 - 180
    gsd = min(abs(float(cell.geobox.resolution.x)) for cell in record.cells)
    most = int(_WEB.zoom_for_res(gsd, zoom_level_strategy="upper"))
    wide = max((east - west) / 360, (north - south) / 180, 1e-9)
    zoom = max(0, min(most, math.floor(math.log2(_MOST_TILES / wide))))
    tiles: dict[str, list[str]] = {}
    for cell in record.cells:
        for key in _quadkeys(cell.outline, zoom):
            tiles.setdefault(key, []).append(f"{cell.folder}/visual.tif")
    return {
        "mosaicjson": "0.0.3",
        "name": record.item_id,
        "description": f"{record.region} {record.period}",
        "version": "1.0.0",
        "minzoom": max(0, min(zoom, most - 5)),
        "maxzoom": most,
        "quadkey_zoom": zoom,
        # Readers want west below east: across the antimeridian that is all longitudes.
        "bounds": [-180.0, south, 180.0, north] if across else [west, south, east, north],
        "center": [middle, (south + north) / 2, zoom],
        "asset_prefix": record.address,
        "tiles": dict(sorted(tiles.items())),
    }


def _quadkeys(outline: shapely.geometry.base.BaseGeometry, zoom: int) -> Iterator[str]:
    """Yield the keys of the web's tiles that an outline touches."""
    shape = cut(outline)
    for part in getattr(shape, "geoms", [shape]):
        west, south, east, north = part.bounds
        yield from (_WEB.quadkey(tile) for tile in _WEB.tiles(west, south, east, north, [zoom], truncate=True))
