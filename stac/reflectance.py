"""Between archived digital numbers and surface reflectance: the only place that converts.

A product stores reflectance as uint16 with scale 1e-4 and 0 for nodata ("product DN").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pystac
from numpy.typing import NDArray

from stac.errors import InvalidItem

PRODUCT_SCALE = 1e-4
PRODUCT_NODATA = 0
_LARGEST = np.iinfo(np.uint16).max


@dataclass(frozen=True, slots=True)
class Scaling:
    """Reflectance = DN * scale + offset, except at `nodata`."""

    scale: float
    offset: float
    nodata: int


def scaling_of(item: pystac.Item, asset: pystac.Asset) -> Scaling:
    """Return how to read an asset's digital numbers.

    Earth Search writes `offset: -0.1` for every scene since processing baseline 04.00 and says with
    `earthsearch:boa_offset_applied: true` that its pixels already contain it; subtracting again would
    turn dark ground negative.

    Raises:
        InvalidItem: scale or nodata are not usable numbers.
    """
    declared = _declared(asset)
    try:
        scale, offset = float(declared.get("scale", PRODUCT_SCALE)), float(declared.get("offset", 0.0))
        nodata = int(declared.get("nodata", PRODUCT_NODATA))
    except (TypeError, ValueError) as error:
        raise InvalidItem(
            f"Item {item.id} declares scale, offset or nodata that are not numbers: {declared}."
        ) from error
    if not scale > 0:
        raise InvalidItem(
            f"Item {item.id} declares scale {scale}; expected a positive number such as 0.0001."
        )
    if item.properties.get("earthsearch:boa_offset_applied") is True:
        offset = 0.0
    return Scaling(scale, offset, nodata)


def _declared(asset: pystac.Asset) -> Mapping[str, Any]:
    """Return scale, offset and nodata of the first band, from STAC 1.1 `bands` or 1.0 `raster:bands`."""
    fields: dict[str, Any] = {}
    for source in (
        asset.extra_fields,
        *asset.extra_fields.get("raster:bands", [])[:1],
        *asset.extra_fields.get("bands", [])[:1],
    ):
        for name in ("scale", "offset", "nodata"):
            for key in (name, f"raster:{name}"):
                if source.get(key) is not None:
                    fields[name] = source[key]
    return fields


def rescale_dn(dn: NDArray[np.uint16], scaling: Scaling) -> NDArray[np.uint16]:
    """Return product DN for archived DN, any shape; exact integers where the scale is 1e-4.

    Nodata becomes 0. Data never become 0: what would fall to 0 or below is 1, and 65535 is the most.
    """
    missing = dn == scaling.nodata
    if np.isclose(scaling.scale, PRODUCT_SCALE, rtol=1e-9):
        shift = round(scaling.offset / PRODUCT_SCALE)
        if shift == 0 and scaling.nodata == PRODUCT_NODATA:
            return dn
        shifted = dn.astype(np.int32) + shift
    else:
        shifted = np.rint((dn * scaling.scale + scaling.offset) / PRODUCT_SCALE)
    product = shifted.clip(1, _LARGEST).astype(np.uint16)
    product[missing] = PRODUCT_NODATA
    return product


def to_reflectance(product_dn: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return surface reflectance (float32, about 0-1) of product DN, NaN where nodata; any shape."""
    reflectance = product_dn.astype(np.float32) * np.float32(PRODUCT_SCALE)
    reflectance[product_dn == PRODUCT_NODATA] = np.nan
    return reflectance


def to_product_dn(reflectance: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return product DN of reflectance; NaN becomes 0, everything else lies in 1..65535; any shape."""
    missing = ~np.isfinite(reflectance)
    scaled = np.rint(np.where(missing, 0, reflectance).astype(np.float64) / PRODUCT_SCALE)
    product = scaled.clip(1, _LARGEST).astype(np.uint16)
    product[missing] = PRODUCT_NODATA
    return product
