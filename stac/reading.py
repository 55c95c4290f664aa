"""Reading one asset onto the pixels of a cell: by window where the grids agree, else warped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pystac
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from stac.errors import InvalidItem, UnreadableAsset
from stac.grid import Cell
from stac.rasters import open_raster

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class AssetRequest:
    """One asset to read."""

    item_id: str
    #: The band's name, for messages.
    band: str
    href: str
    #: Value outside the acquisition.
    nodata: int
    #: How pixels are drawn when the file is on another grid.
    resampling: Resampling

    @property
    def name(self) -> str:
        """The asset in words."""
        return f"Item {self.item_id}, asset {self.band}"

    @classmethod
    def of(cls, item: pystac.Item, band: str, asset: pystac.Asset, nodata: int, resampling: Resampling) -> AssetRequest:
        """Return the request for an asset of an item."""
        return cls(item.id, band, asset.get_absolute_href() or asset.href, nodata, resampling)


@retry(
    retry=retry_if_exception_type(UnreadableAsset),
    stop=stop_after_attempt(_ATTEMPTS),
    wait=wait_exponential_jitter(multiplier=0.2, max=5, jitter=0.5),
    reraise=True,
)
def read_asset(request: AssetRequest, cell: Cell, timeout_s: float) -> NDArray[Any]:
    """Return the first band of an asset on the cell's pixels `(y, x)`, in the file's data type.

    Pixels outside the file are `nodata`.

    Raises:
        InvalidItem: the file holds other than integers, or does not say where it lies.
        UnreadableAsset: the file is missing, truncated or no raster, also after retries.
    """
    with open_raster(request.href, request.name, timeout_s) as source:
        pixels = _on_grid(source, cell.geobox, request)
    if pixels.dtype.kind not in "iu":
        raise InvalidItem(f"{request.name} holds {pixels.dtype}; expected integer digital numbers.")
    return pixels


def _on_grid(source: Any, geobox: GeoBox, request: AssetRequest) -> NDArray[Any]:
    """Read by window where the file shares the cell's pixel grid, else warp."""
    height, width = geobox.shape
    offset = _pixel_offset(source, geobox)
    if offset is None:
        grid = {"crs": geobox.crs.to_wkt(), "transform": geobox.affine, "height": height, "width": width}
        inside = request.nodata if source.nodata is None else source.nodata
        nodata = {"src_nodata": inside, "nodata": request.nodata}
        with WarpedVRT(source, resampling=request.resampling, **nodata, **grid) as warped:
            return np.asarray(warped.read(1))
    left, top = offset
    pixels = np.full((height, width), request.nodata, source.dtypes[0])
    first_row, last_row = max(top, 0), min(top + height, source.height)
    first_column, last_column = max(left, 0), min(left + width, source.width)
    if first_row < last_row and first_column < last_column:
        window = Window.from_slices((first_row, last_row), (first_column, last_column))
        target = pixels[first_row - top : last_row - top, first_column - left : last_column - left]
        target[:] = source.read(1, window=window)
    return pixels


def _pixel_offset(source: Any, geobox: GeoBox) -> tuple[int, int] | None:
    """Return (column, row) of the cell's corner in the file, None where their pixels do not coincide."""
    if source.crs != CRS.from_wkt(geobox.crs.to_wkt()):
        return None
    file, cell = source.transform, geobox.affine
    if not np.allclose((file.a, file.b, file.d, file.e), (cell.a, cell.b, cell.d, cell.e), rtol=1e-9, atol=1e-9):
        return None
    offset = np.array(GeoBox(source.shape, file, geobox.crs).wld2pix(cell.c, cell.f))
    if not np.allclose(offset, np.rint(offset), rtol=0, atol=1e-4):
        return None
    return round(offset[0]), round(offset[1])
