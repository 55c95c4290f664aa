"""What the clouds of a date make likely within a cell and around: more cloud beside them, shadow away from the sun."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pystac
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from stac.errors import InvalidItem
from stac.grid.cell import Cell
from stac.grid.footprint import outline_of_item
from stac.io.signing import Access
from stac.load.mask_reading import plan_mask
from stac.load.reading import read_asset
from stac.masks.classes import PixelClass, among
from stac.masks.combination import MaskKind, MaskRule, grow
from stac.masks.shadow_geometry import FARTHEST_M, cast, sun_at
from stac.masks.temporal import Near
from stac.search.acquisitions import Acquisition

#: Clouds are looked at on pixels of this size at most, metres: their height is known no better.
_COARSE_M = 80.0
#: How far from a cloud more of it is likely, metres.
_BESIDE_M = 400.0


def near_clouds(
    date: Acquisition,
    cell: Cell,
    masks: Sequence[MaskKind],
    rule: MaskRule,
    threads: int,
    access: Access,
) -> NDArray[np.uint8]:
    """Return `Near` values `(y, x)` of a cell.

    Clouds are read thinned, as far around the cell as shadows reach. The thinned grid does not depend on the cell, so a
    window gives what the whole gives.

    Args:
        date: its scenes; each has its own mask.
        cell: pixels of the result.
        masks: masks to combine; none takes the one that comes with a scene.
        rule: how they are combined.
        threads: layers read at the same time.
        access: how remote bytes are reached.

    Raises:
        InvalidItem, UnreadableAsset: as `stac.load.stack.read_stack`.
    """
    factor = 2 ** max(0, math.floor(math.log2(_COARSE_M / cell.gsd_m)))
    coarse, (top, left) = _coarse(cell, factor)
    cloud = np.zeros(coarse.geobox.shape, np.bool_)
    for item in date.items:
        classes = _classes(item, coarse, masks, rule, threads, access)
        cloud |= among(classes, (PixelClass.CLOUD, PixelClass.THIN_CLOUD))
    near = near_of(cloud, coarse, date)
    height, width = cell.geobox.shape
    fine: NDArray[np.uint8] = near.repeat(factor, axis=0).repeat(factor, axis=1)
    return fine[top : top + height, left : left + width]


def near_of(cloud: NDArray[np.bool_], cell: Cell, date: Acquisition) -> NDArray[np.uint8]:
    """Return `Near` values `(y, x)` for the clouds of a date on the pixels of a cell.

    Args:
        cloud: `(y, x)`; clouds beyond the edge are not known.
        cell: its pixels.
        date: when, and where on Earth: one position of the sun counts for the whole scene.
    """
    near = np.where(grow(cloud, _BESIDE_M, cell.gsd_m), np.uint8(Near.CLOUD), np.uint8(Near.NOTHING))
    with suppress(InvalidItem):  # a scene without a footprint: its sun is not known
        middle = outline_of_item(date.items[0]).centroid
        place = float(middle.x), float(middle.y)
        near[cast(cloud, cell.geobox, sun_at(date.instant, *place), place)] |= np.uint8(Near.SHADOW)
    return near


def _coarse(cell: Cell, factor: int) -> tuple[Cell, tuple[int, int]]:
    """Return the thinned surroundings of a cell, and row and column of its first pixel in them (fine pixels)."""
    margin = math.ceil(FARTHEST_M / (cell.gsd_m * factor)) * factor
    (row, column), (height, width) = cell.origin, cell.geobox.shape
    top, left = margin + row % factor, margin + column % factor
    rows, columns = (-(-(first + size + margin) // factor) for first, size in ((top, height), (left, width)))
    affine = cell.geobox.affine @ cell.geobox.affine.translation(-left, -top)
    grid = GeoBox((rows * factor, columns * factor), affine, cell.geobox.crs)
    return Cell(f"{cell.id}-around", grid).thinned(factor), (top, left)


def _classes(
    item: pystac.Item,
    cell: Cell,
    masks: Sequence[MaskKind],
    rule: MaskRule,
    threads: int,
    access: Access,
) -> NDArray[np.uint8]:
    plan = plan_mask(item, masks, rule, Resampling.nearest, access)
    with ThreadPoolExecutor(min(threads, len(plan.layers)), thread_name_prefix="read") as pool:
        return plan.classes(list(pool.map(lambda layer: read_asset(layer.request, access, cell), plan.layers)))
