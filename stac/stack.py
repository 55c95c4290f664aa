"""Reading the dates of one cell into memory: digital numbers and masks on one pixel grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pystac
from numpy.typing import NDArray
from rasterio.enums import Resampling

from stac.assets import find_asset
from stac.errors import InvalidInput, InvalidItem, StacError
from stac.grid import Cell
from stac.masks.classes import PixelClass
from stac.masks.dilation import dilate
from stac.masks.scl import classify_scl
from stac.reading import AssetRequest, read_asset
from stac.reflectance import PRODUCT_NODATA, rescale_dn, scaling_of, to_reflectance

SCL_BAND = "scl"


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a stack is read."""

    #: Reach of cloud dilation, metres.
    cloud_dilation_m: float = 120.0
    #: Reach of shadow dilation, metres.
    shadow_dilation_m: float = 120.0
    #: Time-out of one request, seconds.
    timeout_s: float = 60.0
    #: Assets of a scene read at the same time.
    threads: int = 5
    #: Every how many pixels one is read, along both axes; the stack's cell is as much coarser.
    overview: int = 1


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
            raise InvalidInput(f"Item {item_id} is not in the stack of cell {self.cell.id}; it holds {self.item_ids}.")
        return self.item_ids.index(item_id)

    def window(self, rows: slice, columns: slice) -> Stack:
        """Return a window as a view; rows and columns count from the stack's first pixel."""
        dn, classes = self.dn[:, :, rows, columns], self.classes[:, rows, columns]
        return replace(self, dn=dn, classes=classes, cell=self.cell.window(rows, columns))

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
    cell = cell.thinned(options.overview)
    read: list[tuple[pystac.Item, NDArray[np.uint16], NDArray[np.uint8]]] = []
    dropped: list[str] = []
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


def read_overview(
    items: Sequence[pystac.Item],
    cell: Cell,
    bands: Sequence[str],
    options: ReadOptions | None = None,
    *,
    most_pixels: int = 4_000_000,
    required: Collection[str] | None = None,
    on_read: Callable[[str], None] | None = None,
) -> Stack:
    """Read all dates of a whole cell, thinned by the smallest whole factor that keeps each date small.

    Every k-th pixel is drawn, from the overviews of a file where it has them; pixels at the file's edge whose k
    by k block is not complete are nodata. Clouds are grown on the thinned mask. With factor 1 the result is that
    of `read_stack`, bit for bit.

    Args:
        items: as for `read_stack`, like everything else.
        cell: the whole cell at full resolution; the stack's cell is `cell.thinned(k)`.
        bands: common names, in the order of the result.
        options: dilation and time-outs.
        most_pixels: largest area of one date of the result, pixels.
        required: ids of items that must be readable.
        on_read: told the id of each item when it has been read.

    Raises:
        InvalidItem, UnreadableAsset, InvalidInput: as `read_stack`.
    """
    options = replace(options or ReadOptions(), overview=overview_factor(cell, most_pixels))
    return read_stack(items, cell, bands, options, required=required, on_read=on_read)


def overview_factor(cell: Cell, most_pixels: int) -> int:
    """Return the smallest factor by which a cell must be thinned to hold at most so many pixels."""
    factor = max(1, math.isqrt(cell.pixels // max(most_pixels, 1)))
    while factor < max(cell.geobox.shape) and cell.thinned(factor).pixels > most_pixels:
        factor += 1
    return factor


def _day(item: pystac.Item) -> int:
    if item.datetime is None:
        raise InvalidItem(f"Item {item.id} has no datetime; Unveil restores single acquisitions.")
    return (item.datetime.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days


def _read_item(
    item: pystac.Item, cell: Cell, bands: Sequence[str], options: ReadOptions
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Return product DN `(band, y, x)` and dilated classes `(y, x)` of one scene."""
    assets = [find_asset(item, band) for band in bands]
    scalings = [scaling_of(item, asset) for asset in assets]
    drawn = Resampling.bilinear if options.overview == 1 else Resampling.nearest
    requests = [
        AssetRequest.of(item, band, asset, scaling.nodata, drawn)
        for band, asset, scaling in zip(bands, assets, scalings, strict=True)
    ]
    scl = AssetRequest.of(item, SCL_BAND, find_asset(item, SCL_BAND), 0, Resampling.nearest)
    # A cloud outside the cell reaches into it, so its surroundings are read as far as clouds grow.
    reach = math.floor(max(options.cloud_dilation_m, options.shadow_dilation_m, 0) / cell.gsd_m + 1e-9)
    cells = [*[cell] * len(requests), Cell(cell.id, cell.geobox.pad(reach))]
    # Assets wait for the network, not for the processor.
    with ThreadPoolExecutor(min(options.threads, len(cells)), thread_name_prefix="read") as pool:
        *layers, around = pool.map(read_asset, [*requests, scl], cells, [options.timeout_s] * len(cells))
    dn = np.stack([rescale_dn(layer, scaling) for layer, scaling in zip(layers, scalings, strict=True)])
    classes = classify_scl(around)
    inside = np.s_[reach : reach + dn.shape[1], reach : reach + dn.shape[2]]
    classes[inside][(dn == PRODUCT_NODATA).any(axis=0)] = PixelClass.NODATA
    return dn, dilate(classes, cell.gsd_m, options.cloud_dilation_m, options.shadow_dilation_m)[inside]
