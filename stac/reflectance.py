"""Between archived digital numbers and surface reflectance: the only place that converts.

A product stores reflectance as uint16 with scale 1e-4 and 0 for nodata ("product DN"). Which scale and offset a
scene has is decided in `stac.load.scaling`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PRODUCT_SCALE = 1e-4
PRODUCT_NODATA = 0
_LARGEST = np.iinfo(np.uint16).max


@dataclass(frozen=True, slots=True)
class Scaling:
    """Reflectance = DN * scale + offset, except at `nodata`."""

    scale: float
    offset: float
    nodata: int


def rescale_dn(dn: NDArray[Any], scaling: Scaling) -> NDArray[np.uint16]:
    """Return product DN for archived integers, any shape; exact where the scale is 1e-4.

    Nodata becomes 0. Data never become 0: what would fall to 0 or below is 1, and 65535 is the most.
    """
    if np.isclose(scaling.scale, PRODUCT_SCALE, rtol=1e-9):
        shift = round(scaling.offset / PRODUCT_SCALE)
        if shift == 0 and scaling.nodata == PRODUCT_NODATA and dn.dtype == np.uint16:
            return dn
        return _stored(dn.astype(np.int64) + shift, dn == scaling.nodata)
    return _stored((dn * scaling.scale + scaling.offset) / PRODUCT_SCALE, dn == scaling.nodata)


def to_reflectance(product_dn: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return surface reflectance (float32, about 0-1) of product DN, NaN where nodata; any shape."""
    reflectance = product_dn.astype(np.float32) * np.float32(PRODUCT_SCALE)
    reflectance[product_dn == PRODUCT_NODATA] = np.nan
    return reflectance


def to_product_dn(reflectance: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return product DN of reflectance; NaN becomes 0, everything else lies in 1..65535; any shape."""
    missing = ~np.isfinite(reflectance)
    known = np.where(missing, 0, reflectance) if missing.any() else reflectance
    return _stored(known.astype(np.float64) / PRODUCT_SCALE, missing)


def _stored(product: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Round to the nearest integer (ties to even), keep data within 1..65535, and write nodata where missing."""
    stored: NDArray[np.uint16] = np.rint(product).clip(1, _LARGEST).astype(np.uint16)
    stored *= ~missing
    return stored
