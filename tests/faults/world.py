"""Static catalogs of tiny scenes whose ground and clouds are known, for conditions that archives really have."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import rasterio
from numpy.typing import NDArray
from rasterio.warp import transform_bounds

from stac.grid.cell import Cell, cell_of
from stac.io.signing import Access
from stac.load.stack import ReadOptions, Stack, read_stack
from stac.search.source import Query, Skipped
from stac.search.static import StaticSource

Pixels = NDArray[Any]
BANDS = ("blue", "green", "red", "nir")
SIDE, LEFT, TOP = 64, 540000.0, 5070000.0
AS_IS = ReadOptions(cloud_dilation_m=0, shadow_dilation_m=0, access=Access(timeout_s=5))
SENTINEL2 = {
    "platform": "sentinel-2a", "constellation": "sentinel-2", "grid:code": "MGRS-33TWM",
    "s2:processing_baseline": "05.09",
}  # fmt: skip


def ground(band: int, side: int = SIDE) -> NDArray[np.int64]:
    """Return reflectance / 1e-4 `(y, x)`: every pixel differs from its neighbours."""
    y, x = np.mgrid[0:side, 0:side]
    return 400 + 250 * band + 7 * x + 3 * y + 300 * ((x // 8 + y // 8) % 2)


def write(path: Path, pixels: Pixels, size: float = 10.0, **options: Any) -> None:
    """Write a raster `(y, x)` or `(band, y, x)`; options beside those of rasterio: scale, offset, tags, names, mask."""
    own = {name: options.pop(name, None) for name in ("scale", "offset", "tags", "names", "mask", "transform")}
    bands = pixels if pixels.ndim == 3 else pixels[None]
    transform = own["transform"] or rasterio.Affine(size, 0, LEFT, 0, -size, TOP)
    profile = {
        "driver": "GTiff", "dtype": str(bands.dtype), "count": len(bands), "height": bands.shape[1],
        "width": bands.shape[2], "crs": "EPSG:32633", "transform": transform, "nodata": 0, **options,
    }  # fmt: skip
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile) as target:
        target.write(bands)
        if own["scale"] is not None:
            target.scales, target.offsets = (own["scale"],) * len(bands), (own["offset"] or 0,) * len(bands)
        if own["names"]:
            target.descriptions = own["names"]
        if own["tags"]:
            target.update_tags(**own["tags"])
        if own["mask"] is not None:
            target.write_mask(own["mask"])


def footprint(rows: tuple[int, int] = (0, SIDE), size: float = 10.0) -> dict[str, Any]:
    """Return the outline of some rows of the square, degrees."""
    west, south, east, north = transform_bounds(
        "EPSG:32633", "EPSG:4326", LEFT, TOP - rows[1] * size, LEFT + SIDE * size, TOP - rows[0] * size
    )
    return {
        "type": "Polygon",
        "coordinates": [[[west, south], [east, south], [east, north], [west, north], [west, south]]],
    }


class World:
    """A catalog in a folder."""

    def __init__(self, folder: Path, collection: str = "sentinel-2-l2a") -> None:
        self.folder, self.collection = folder, collection
        self.items: list[dict[str, Any]] = []

    def scene(
        self,
        name: str = "S2A_33TWM_20230810_0_L2A",
        when: str = "2023-08-10T10:00:00Z",
        *,
        dn: Callable[[NDArray[np.int64]], Pixels] = lambda values: values + 1000,
        classes: Pixels | None = None,
        properties: Mapping[str, Any] | None = None,
        asset: Mapping[str, Any] | None = None,
        file: Mapping[str, Any] | None = None,
        mask_file: Mapping[str, Any] | None = None,
        geometry: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Add a scene; return its document, which may be changed until the catalog is searched."""
        assets: dict[str, Any] = {}
        for band, key in enumerate(BANDS):
            write(self.folder / f"{name}-{key}.tif", dn(ground(band)).astype(np.uint16), **(file or {}))
            assets[key] = {"href": f"./{name}-{key}.tif", "type": "image/tiff", "roles": ["data"], **(asset or {})}
        scl = np.full((SIDE, SIDE), 4, np.uint8) if classes is None else classes
        write(self.folder / f"{name}-scl.tif", scl.astype(np.uint8), **(mask_file or {}))
        assets["scl"] = {"href": f"./{name}-scl.tif", "type": "image/tiff", "roles": ["data"]}
        outline = dict(geometry or footprint())
        ring = np.array(outline["coordinates"][0])
        document = {
            "type": "Feature", "stac_version": "1.0.0", "stac_extensions": [], "id": name,
            "collection": self.collection, "geometry": outline, "bbox": [*ring.min(axis=0), *ring.max(axis=0)],
            "properties": {"datetime": when, "eo:cloud_cover": 5.0, **SENTINEL2, **(properties or {})},
            "assets": assets, "links": [],
        }  # fmt: skip
        self.items.append(document)
        return document

    def search(self, interval: str = "2015-01-01/2025-12-31") -> tuple[list[pystac.Item], list[Skipped]]:
        """Return what a search finds and what it passes over."""
        root = {
            "type": "Collection", "stac_version": "1.0.0", "id": self.collection, "description": "-",
            "license": "CC0-1.0",
            "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}},
            "links": [{"rel": "item", "href": f"./{number}.json"} for number in range(len(self.items))],
        }  # fmt: skip
        (self.folder / "catalog.json").write_text(json.dumps(root))
        for number, item in enumerate(self.items):
            (self.folder / f"{number}.json").write_text(json.dumps(item))
        source = StaticSource(str(self.folder))
        return source.search(Query.parse(self.collection, None, interval)), source.skipped

    def read(self, cell: Cell | None = None, options: ReadOptions = AS_IS) -> Stack:
        """Read the only scene on its own grid, or on a cell."""
        (item,), skipped = self.search()
        assert not skipped
        return read_stack([item], cell or cell_of(item, "blue"), BANDS, options)


def truth() -> NDArray[np.int64]:
    """Return the ground of all bands `(band, y, x)`."""
    return np.stack([ground(band) for band in range(len(BANDS))])
