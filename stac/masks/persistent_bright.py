"""Bright roofs, quarries and greenhouses that a mask calls cloud on every date.

A cloud never looks the same twice: between two dates its reflectance changes by tens of percent, while ground that is
not sown or cut changes by a few (the idea behind multi-temporal masks, Hagolle et al. 2010,
https://doi.org/10.1016/j.rse.2010.03.002). A pixel that is called cloud on nearly all of at least four days, and whose
reflectance is nevertheless the same on all of them in every band, is ground.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stac.masks.classes import PixelClass
from stac.reflectance import PRODUCT_NODATA, PRODUCT_SCALE

#: Fewer days prove nothing.
_FEWEST_DAYS = 4
#: Share of the dates with data that call it cloud.
_NEARLY_ALL = 0.8
#: Largest difference between any two dates, of the median over dates and in reflectance: what sun angle, haze and
#: noise do to still ground. The larger of both counts.
_RELATIVE, _ABSOLUTE = 0.15, 0.02


def persistent_bright(dn: NDArray[np.uint16], classes: NDArray[np.uint8], days: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return where `(y, x)` the mask calls ground cloud. Every pixel is judged by itself.

    Args:
        dn: product DN `(time, band, y, x)`.
        classes: `PixelClass` values `(time, y, x)` before dilation.
        days: days since 1970-01-01 `(time,)`; scenes of one day count as one.
    """
    has_data = (dn != PRODUCT_NODATA).all(axis=1) & (classes != PixelClass.NODATA)
    cloudy = has_data & np.isin(classes, (PixelClass.CLOUD, PixelClass.THIN_CLOUD))
    seen_days = sum(has_data[days == day].any(axis=0).astype(np.uint8) for day in np.unique(days))
    found: NDArray[np.bool_] = (seen_days >= _FEWEST_DAYS) & (cloudy.sum(axis=0) >= _NEARLY_ALL * has_data.sum(axis=0))
    rows, columns = np.nonzero(found)
    found[rows, columns] = _is_stable(dn[:, :, rows, columns], has_data[:, rows, columns])
    return found


def _is_stable(dn: NDArray[np.uint16], has_data: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell for pixels `(time, band, n)` whether all dates with data `(time, n)` agree in every band; `(n,)`."""
    if dn.shape[2] == 0:
        return np.zeros(0, np.bool_)
    values = np.where(has_data[:, None], dn * PRODUCT_SCALE, np.nan)
    difference = np.nanmax(values, axis=0) - np.nanmin(values, axis=0)
    allowed = np.maximum(_RELATIVE * np.nanmedian(values, axis=0), _ABSOLUTE)
    stable: NDArray[np.bool_] = (difference <= allowed).all(axis=0)
    return stable


def without_persistent_bright(
    dn: NDArray[np.uint16], classes: NDArray[np.uint8], days: NDArray[np.int32]
) -> NDArray[np.uint8]:
    """Return the classes with such pixels clear wherever they were called cloud; arguments as `persistent_bright`."""
    cloudy = np.isin(classes, (PixelClass.CLOUD, PixelClass.THIN_CLOUD))
    return np.where(cloudy & persistent_bright(dn, classes, days), PixelClass.CLEAR, classes).astype(np.uint8)
