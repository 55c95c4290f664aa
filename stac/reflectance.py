"""Between archived digital numbers and surface reflectance: the only place that converts.

A product stores reflectance as uint16 with scale 1e-4 and 0 for nodata ("product DN").
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pystac
from numpy.typing import NDArray

from stac.errors import InvalidItem

PRODUCT_SCALE = 1e-4
PRODUCT_NODATA = 0
#: BOA_ADD_OFFSET of -1000 DN, and the baseline that introduced it.
_BOA_OFFSET, _FIRST_WITH_OFFSET = -0.1, "04.00"
_LARGEST = np.iinfo(np.uint16).max


@dataclass(frozen=True, slots=True)
class Scaling:
    """Reflectance = DN * scale + offset, except at `nodata`."""

    scale: float
    offset: float
    nodata: int


def scaling_of(item: pystac.Item, asset: pystac.Asset) -> Scaling:
    """Return how to read an asset's digital numbers.

    The offset, in this order:

    1. `earthsearch:boa_offset_applied: true`: 0. Earth Search declares -0.1 for every scene since processing
       baseline 04.00, also for those whose pixels already contain it; subtracting again would turn dark
       ground negative.
    2. what the item declares.
    3. nothing declared and `s2:processing_baseline` 04.00 or later: -0.1 (archived as delivered by ESA).
    4. 0.

    Raises:
        InvalidItem: scale, offset or nodata are not usable numbers.
    """
    declared = _declared(asset)
    try:
        scale, nodata = (
            float(declared.get("scale", PRODUCT_SCALE)),
            int(declared.get("nodata", PRODUCT_NODATA)),
        )
        offset = float(declared["offset"]) if "offset" in declared else _delivered_offset(item)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidItem(
            f"Item {item.id} declares scale, offset or nodata that are not numbers: {declared}."
        ) from error
    if not (0 < scale < math.inf and math.isfinite(offset)):
        raise InvalidItem(f"Item {item.id} declares scale {scale} and offset {offset}; expected finite numbers.")
    if item.properties.get("earthsearch:boa_offset_applied") is True:
        offset = 0.0
    return Scaling(scale, offset, nodata)


def _delivered_offset(item: pystac.Item) -> float:
    """Return the offset of Sentinel-2 L2A pixels as ESA delivers them, by processing baseline."""
    baseline = str(item.properties.get("s2:processing_baseline", ""))
    return _BOA_OFFSET if re.fullmatch(r"\d\d\.\d\d", baseline) and baseline >= _FIRST_WITH_OFFSET else 0.0


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


def rescale_dn(dn: NDArray[Any], scaling: Scaling) -> NDArray[np.uint16]:
    """Return product DN for archived integers, any shape; exact where the scale is 1e-4.

    Nodata becomes 0. Data never become 0: what would fall to 0 or below is 1, and 65535 is the most.
    """
    missing = dn == scaling.nodata
    if np.isclose(scaling.scale, PRODUCT_SCALE, rtol=1e-9):
        shift = round(scaling.offset / PRODUCT_SCALE)
        if shift == 0 and scaling.nodata == PRODUCT_NODATA and dn.dtype == np.uint16:
            return dn
        shifted = dn.astype(np.int64) + shift
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
