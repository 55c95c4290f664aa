"""Reading the dates of one cell into memory: digital numbers and masks on one pixel grid."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pystac
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from stac.assets import find_asset
from stac.errors import InvalidInput, InvalidItem, StacError, UnreadableAsset
from stac.grid import Cell
from stac.masks.classes import PixelClass
from stac.masks.dilation import dilate
from stac.masks.scl import classify_scl
from stac.reflectance import rescale_dn, scaling_of, to_reflectance

SCL_BAND = "scl"
_ATTEMPTS = 3

_RESAMPLING = {"data": Resampling.bilinear, SCL_BAND: Resampling.nearest}


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a stack is read."""

    #: Reach of cloud dilation, metres.
    cloud_dilation_m: float = 120.0
    #: Reach of shadow dilation, metres.
    shadow_dilation_m: float = 120.0
    #: Time-out of one request, seconds.
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Stack:
    """All dates of a cell. Arrays share their last two axes `(y, x)`, the cell's pixels."""

    #: Product digital numbers `(time, band, y, x)`: reflectance / 1e-4, 0 where nodata.
    dn: NDArray[np.uint16]
    #: `PixelClass` values `(time, y, x)` after dilation.
    classes: NDArray[np.uint8]
    item_ids: tuple[str, ...]
    #: Days since 1970-01-01 `(time,)`.
    days: NDArray[np.int32]
    bands: tuple[str, ...]
    cell: Cell
    #: Why items were left out, one sentence each.
    dropped: tuple[str, ...] = ()

    def reflectance(self, index: int) -> NDArray[np.float32]:
        """Return surface reflectance `(band, y, x)` of one date, NaN where nodata."""
        return to_reflectance(self.dn[index])

    def index_of(self, item_id: str) -> int:
        """Return the position of an item.

        Raises:
            InvalidInput: the stack does not hold it.
        """
        if item_id not in self.item_ids:
            raise InvalidInput(
                f"Item {item_id} is not in the stack of cell {self.cell.id}; it holds {self.item_ids}."
            )
        return self.item_ids.index(item_id)

    def without(self, item_ids: Collection[str]) -> Stack:
        """Return the stack without some items."""
        keep = [i for i, item_id in enumerate(self.item_ids) if item_id not in item_ids]
        ids = tuple(self.item_ids[i] for i in keep)
        return replace(self, dn=self.dn[keep], classes=self.classes[keep], days=self.days[keep], item_ids=ids)


def read_stack(
    items: Sequence[pystac.Item],
    cell: Cell,
    bands: Sequence[str],
    options: ReadOptions | None = None,
    *,
    required: Collection[str] | None = None,
    on_read: Callable[[str], None] | None = None,
) -> Stack:
    """Read all dates of a cell.

    Args:
        items: the scenes, one date each.
        cell: where; scenes on another grid are warped to it (bilinear; masks nearest).
        bands: common names, in the order of the result.
        options: dilation and time-outs.
        required: ids of items that must be readable; others are dropped with their reason when they are
            not. None requires all.
        on_read: told the id of each item when it has been read.

    Raises:
        InvalidItem: a required item lacks an asset.
        UnreadableAsset: pixels of a required item cannot be read after retries.
        InvalidInput: no item is left.
    """
    options = options or ReadOptions()
    read: list[tuple[pystac.Item, NDArray[np.uint16], NDArray[np.uint8]]] = []
    dropped: list[str] = []
    with _environment(options.timeout_s):
        for item in items:
            try:
                read.append((item, *_read_item(item, cell, bands, options)))
            except StacError as error:
                if required is None or item.id in required:
                    raise
                dropped.append(str(error))
            if on_read is not None:
                on_read(item.id)
    if not read:
        raise InvalidInput(f"No scene of cell {cell.id} could be read: {' '.join(dropped)}")
    return Stack(
        dn=np.stack([dn for _, dn, _ in read]),
        classes=np.stack([classes for _, _, classes in read]),
        item_ids=tuple(item.id for item, _, _ in read),
        days=np.array([_day(item) for item, _, _ in read], dtype=np.int32),
        bands=tuple(bands),
        cell=cell,
        dropped=tuple(dropped),
    )


@contextmanager
def _environment(timeout_s: float) -> Iterator[None]:
    """GDAL with time-outs and few retries, and without listing folders on remote servers."""
    settings: dict[str, Any] = {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_HTTP_TIMEOUT": max(1, round(timeout_s)),
        "GDAL_HTTP_CONNECTTIMEOUT": max(1, round(min(timeout_s, 15))),
        "GDAL_HTTP_MAX_RETRY": 3,
        "GDAL_HTTP_RETRY_DELAY": 1,
        "VSI_CACHE": True,
    }
    with rasterio.Env(**settings):
        yield


def _day(item: pystac.Item) -> int:
    if item.datetime is None:
        raise InvalidItem(f"Item {item.id} has no datetime; Unveil restores single acquisitions.")
    return (item.datetime.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days


def _read_item(
    item: pystac.Item, cell: Cell, bands: Sequence[str], options: ReadOptions
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Return product DN `(band, y, x)` and dilated classes `(y, x)` of one scene."""
    layers = []
    for band in bands:
        asset = find_asset(item, band)
        layers.append(rescale_dn(_read_asset(item, band, asset, cell, "data"), scaling_of(item, asset)))
    dn = np.stack(layers)
    scl = _read_asset(item, SCL_BAND, find_asset(item, SCL_BAND), cell, SCL_BAND).astype(np.uint8)
    classes = classify_scl(scl)
    classes[(dn == 0).any(axis=0)] = PixelClass.NODATA
    return dn, dilate(classes, cell.gsd_m, options.cloud_dilation_m, options.shadow_dilation_m)


@retry(
    retry=retry_if_exception_type(UnreadableAsset),
    stop=stop_after_attempt(_ATTEMPTS),
    wait=wait_exponential_jitter(initial=0.2, max=5, jitter=0.5),
    reraise=True,
)
def _read_asset(item: pystac.Item, band: str, asset: pystac.Asset, cell: Cell, kind: str) -> NDArray[Any]:
    """Return the first band of an asset on the cell's pixels."""
    href = asset.get_absolute_href() or asset.href
    try:
        with rasterio.open(href) as source:
            return _on_grid(source, cell, _RESAMPLING[kind])
    except RasterioError as error:
        raise UnreadableAsset(
            f"Item {item.id}, asset {band}: {href} cannot be read ({_first_line(error)}); "
            "fetch the file again or leave the scene out."
        ) from error


def _on_grid(source: Any, cell: Cell, resampling: Resampling) -> NDArray[Any]:  # noqa: ANN401 - rasterio is untyped
    """Read by window where the file shares the cell's grid, else warp."""
    geobox = cell.geobox
    height, width = geobox.shape
    offset = ~source.transform * (geobox.affine * (0, 0))
    same_pixels = np.allclose(tuple(source.transform)[:5:4], tuple(geobox.affine)[:5:4], rtol=1e-9)
    whole = np.allclose(offset, np.rint(offset), atol=1e-4)
    left, top = (round(v) for v in offset)
    inside = left >= 0 and top >= 0 and left + width <= source.width and top + height <= source.height
    if source.crs == rasterio.crs.CRS.from_wkt(geobox.crs.to_wkt()) and same_pixels and whole and inside:
        return np.asarray(source.read(1, window=Window(left, top, width, height)))
    grid = {"crs": geobox.crs.to_wkt(), "transform": geobox.affine, "height": height, "width": width}
    with WarpedVRT(source, resampling=resampling, nodata=source.nodata or 0, **grid) as warped:
        return np.asarray(warped.read(1))


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
