"""A full-size cell made of real imagery: the sample, mirrored and repeated to 10980 pixels a side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from stac.raster import CogWriter, RasterSpec
from stac.sample_catalog import sample_catalog

#: Grid square of the sample that is repeated, and the ground distance of its pixels in the big cell, metres.
_SQUARE, _PIXEL_M = "33TWM", 10
_ROWS = 1024


def write_big_cell(folder: Path, side: int) -> Path:
    """Write a static catalog with every date of one grid square; return the path of its root document.

    Pixels are the sample's, mirrored at every repetition: textures, clouds and nodata are real and no seam shows.

    Args:
        folder: an empty folder.
        side: rows and columns of the cell, pixels.
    """
    root = sample_catalog()
    ids = sorted(path.name for path in root.parent.glob(f"*_{_SQUARE}_*"))
    for item_id in ids:
        _write_item(root.parent / item_id, folder / item_id, side)
    for name in ("catalog.json", "collection.json"):
        document = json.loads((root.parent / name).read_text("utf-8"))
        document["links"] = [l for l in document["links"] if l["rel"] != "item" or l["href"].split("/")[-2] in ids]
        (folder / name).write_text(json.dumps(document), "utf-8")
    return folder / root.name


def _write_item(source: Path, target: Path, side: int) -> None:
    document = json.loads((source / f"{source.name}.json").read_text("utf-8"))
    target.mkdir(parents=True)
    for asset in document["assets"].values():
        if not str(asset["href"]).endswith(".tif"):
            continue
        transform = _repeat(source / asset["href"], target / asset["href"], side)
        asset |= {"proj:shape": [side, side], "proj:transform": list(transform)[:6], "gsd": _PIXEL_M}
    document["properties"] |= {"gsd": _PIXEL_M}
    (target / f"{target.name}.json").write_text(json.dumps(document), "utf-8")


def _repeat(source: Path, target: Path, side: int) -> Affine:
    with rasterio.open(source) as small:
        pixels, crs, nodata = small.read(1), small.crs, small.nodata
        transform = Affine(_PIXEL_M, 0, small.transform.c, 0, -_PIXEL_M, small.transform.f)
    spec = RasterSpec(nodata or 0, "nearest" if pixels.dtype == np.uint8 else "average")
    with CogWriter(target, GeoBox((side, side), transform, crs.to_wkt()), 1, str(pixels.dtype), spec) as cog:
        for row, rows in _bands_of_rows(pixels, side):
            cog.write(rows[None], row, 0)
        cog.finish()
    return transform


def _bands_of_rows(pixels: NDArray[Any], side: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first row, rows) of the repeated image."""
    height, width = pixels.shape
    columns = _mirrored(np.arange(side), width)
    for row in range(0, side, _ROWS):
        rows = _mirrored(np.arange(row, min(row + _ROWS, side)), height)
        yield row, pixels[np.ix_(rows, columns)]


def _mirrored(index: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Return which pixel of `length` a pixel of the repeated image is: forwards, backwards, forwards again."""
    place = index % (2 * length)
    return np.where(place < length, place, 2 * length - 1 - place)
