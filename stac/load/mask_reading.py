"""The mask of a scene on the pixels of a cell: which layers it needs, and what they make."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pystac
from numpy.typing import NDArray
from rasterio.enums import Resampling

from stac.errors import InvalidItem
from stac.grid.assets import find_asset
from stac.grid.cell import Cell
from stac.io.signing import Access
from stac.load.reading import Layer, look_at
from stac.load.resampling import coarseness
from stac.masks.combination import MaskKind, MaskRule, Opinion, combine, kinds_for
from stac.masks.learned import MaskInput, MaskMethod
from stac.reflectance import rescale_dn, to_reflectance


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
        return max([1, *(round(coarseness(grid.affine, cell.geobox)) for grid in grids)])

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
    return names[-1], find_asset(item, names[-1])


def _is_level_1c(item: pystac.Item) -> bool:
    properties = item.properties
    named = (item.collection_id, properties.get("s2:product_type"), properties.get("processing:level"))
    return any(str(name).upper().endswith("1C") for name in named)
