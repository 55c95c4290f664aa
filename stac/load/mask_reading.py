"""The mask of a scene on the pixels of a cell: which layers it needs, and what they make; and what its clouds make
likely within the cell and around: more cloud beside them, shadow away from the sun.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pystac
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from stac.errors import InvalidItem
from stac.grid.assets import find_asset
from stac.grid.cell import Cell
from stac.grid.footprint import outline_of_item
from stac.io.signing import Access
from stac.load.reading import Layer, at_once, look_at, read_asset
from stac.load.resampling import coarseness
from stac.masks.classes import PixelClass, among
from stac.masks.combination import MaskKind, MaskRule, Opinion, combine, grow, kinds_for
from stac.masks.methods import MaskInput, MaskMethod
from stac.masks.shadow_geometry import FARTHEST_M, cast, sun_at
from stac.masks.temporal import Near
from stac.reflectance import rescale_dn, to_reflectance
from stac.search.acquisitions import Acquisition

#: Clouds are looked at on pixels of this size at most, metres: their height is known no better.
_COARSE_M = 80.0
#: How far from a cloud more of it is likely, metres.
_BESIDE_M = 400.0


@dataclass(frozen=True, slots=True)
class MaskPlan:
    """What must be read for the mask of one scene."""

    item: pystac.Item
    methods: tuple[MaskMethod, ...]
    rule: MaskRule
    #: What all methods need, one after the other.
    layers: tuple[Layer, ...]

    def finer_than(self, cell: Cell) -> int:
        """Return how many pixels of the finest classification lie along one of a cell; 1 without any."""
        grids = [layer.grid for layer in self.layers if layer.scaling is None]
        return max([1, *(round(coarseness(grid, cell.geobox)) for grid in grids)])

    def classes(self, pixels: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
        """Return `PixelClass` values `(y, x)`, not dilated, from the pixels of `layers`.

        Raises:
            InvalidItem: a layer is not what it should be.
            MissingExtra: a package is not installed.
        """
        ready = iter(
            found if layer.scaling is None else to_reflectance(rescale_dn(found, layer.scaling))
            for found, layer in zip(pixels, self.layers, strict=True)
        )
        try:
            opinions = [Opinion(m.classify([next(ready) for _ in m.inputs]), m.sees) for m in self.methods]
        except InvalidItem as error:
            raise InvalidItem(f"Item {self.item.id}: {error}") from error
        return combine(opinions, self.rule)


def plan_mask(
    item: pystac.Item,
    kinds: Sequence[MaskKind],
    rule: MaskRule,
    resampling: Resampling,
    access: Access,
) -> MaskPlan:
    """Return what to read for the mask of a scene.

    Args:
        item: the scene.
        kinds: masks to combine; none takes the one that comes with the scene.
        rule: how they are combined.
        resampling: of reflectance; classifications take the nearest pixel.
        access: how remote bytes are reached.

    Raises:
        InvalidItem: the scene lacks a layer, or a layer is not what the item says.
        UnreadableAsset: a layer cannot be read.
    """
    methods = tuple(kind.method for kind in kinds_for(item, kinds))
    layers: list[Layer] = []
    for method in methods:
        for wanted in method.inputs:
            name, asset = _find(item, wanted, method)
            nodata = None if wanted.reflectance else wanted.nodata
            layers.append(look_at(item, name, asset, resampling, access, nodata))
    return MaskPlan(item, methods, rule, tuple(layers))


def _find(item: pystac.Item, layer: MaskInput, method: MaskMethod) -> tuple[str, pystac.Asset]:
    names = layer.names
    if method.top_of_atmosphere and not _is_level_1c(item):
        names = names[:1]
        if names[0] not in item.assets:
            raise InvalidItem(
                f"Item {item.id} is not Level-1C and has no asset {names[0]}; s2cloudless needs bands at the top "
                "of the atmosphere. Choose a Level-1C collection, add its bands to the item as toa-coastal, toa-blue "
                "and so on, or leave s2cloudless out of masks."
            )
    for name in names[:-1]:
        with suppress(InvalidItem):
            return name, find_asset(item, name)
    try:
        return names[-1], find_asset(item, names[-1])
    except InvalidItem as error:
        if layer.reflectance:
            raise
        raise InvalidItem(
            f"{error} {names[-1]} is the mask that comes with a scene; choose another with --masks, e.g. omnicloudmask."
        ) from error


def _is_level_1c(item: pystac.Item) -> bool:
    properties = item.properties
    named = (item.collection_id, properties.get("s2:product_type"), properties.get("processing:level"))
    return any(str(name).upper().endswith("1C") for name in named)


def near_clouds(
    date: Acquisition,
    cell: Cell,
    masks: Sequence[MaskKind],
    rule: MaskRule,
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
        access: how remote bytes are reached.

    Raises:
        InvalidItem, UnreadableAsset: as `stac.load.stack.read_stack`.
    """
    factor = 2 ** max(0, math.floor(math.log2(_COARSE_M / cell.gsd_m)))
    coarse, (top, left) = _coarse(cell, factor)
    cloud = np.zeros(coarse.geobox.shape, np.bool_)
    for item in date.items:
        plan = plan_mask(item, masks, rule, Resampling.nearest, access)
        layers = at_once(lambda layer: read_asset(layer.request, access, coarse), plan.layers)
        cloud |= among(plan.classes(layers), (PixelClass.CLOUD, PixelClass.THIN_CLOUD))
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
