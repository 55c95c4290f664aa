"""Haze, which masks do not know: how hazy a date is, and which of its pixels are clean.

Haze only brightens, and blue most; it is wide, where fields are not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from stac.composite.normalisation import repeatability
from stac.load.stack import Stack
from stac.masks.classes import is_observed

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Pixels needed to match a composite to clean sky.
_PIXELS_FOR_MATCH = 500
#: Clean sky: pixels whose neighbourhood is among the least brightened of the date. The share that is taken
#: as certainly clean, and how much brighter (reflectance) still counts.
_CLEAN_SHARE, _CLEAN_MARGIN = 0.02, 0.003
#: Side of the neighbourhood over which the index is averaged, pixels: haze is wide, fields are not.
_HAZE_NEIGHBOURHOOD = 9
#: Share of a date that is taken as certainly clean, and how far above it still counts, reflectance.
_HAZE_CLEAN_SHARE, _HAZE_CLEAN_MARGIN = 0.05, 0.008
#: The span of the index: between these quantiles.
_SPAN = (0.05, 0.95)
_LEAST_PIXELS = 50


def haze_index(reflectance: FloatArray, bands: Sequence[str]) -> FloatArray:
    """Return blue - red / 2 `(y, x)`, reflectance; the first band where there is no blue or red.

    After the haze-optimised transformation of Zhang, Guindon and Cihlar (2002, Remote Sensing of Environment 82): clear
    ground lies near a line in blue and red, and haze lifts a pixel off it.
    """
    if not {"blue", "red"} <= set(bands):
        first: FloatArray = reflectance[0]
        return first
    index: FloatArray = reflectance[bands.index("blue")] - np.float32(0.5) * reflectance[bands.index("red")]
    return index


def smoothed(values: FloatArray, where: BoolArray) -> FloatArray:
    """Return the mean of `values` over the chosen pixels of each neighbourhood, `(y, x)`."""
    share = uniform_filter(where.astype(np.float32), _HAZE_NEIGHBOURHOOD)
    total = uniform_filter(np.where(where, values, 0).astype(np.float32), _HAZE_NEIGHBOURHOOD)
    mean: FloatArray = total / np.maximum(share, np.float32(1e-3))
    return mean


def haze_span(reflectance: FloatArray, where: BoolArray, bands: Sequence[str]) -> float:
    """Return the span of the smoothed index over the chosen pixels, reflectance: the ground's own, and haze.

    The same ground on two dates has the same span of its own, so the date with the wider one is the hazier. 0 with
    hardly any pixel.
    """
    if where.sum() < _LEAST_PIXELS:
        return 0.0
    index = smoothed(haze_index(reflectance, bands), where)[where]
    low, high = np.quantile(index, _SPAN)
    return float(high - low)


def least_hazy(reflectance: FloatArray, clear: FloatArray, where: BoolArray, bands: Sequence[str]) -> BoolArray:
    """Return the chosen pixels `(y, x)` that haze brightens least over another image of the same ground.

    Args:
        reflectance: the hazy date `(band, y, x)`.
        clear: what is known of the ground, same shape, NaN where nothing is.
        where: `(y, x)`, pixels to choose among.
        bands: common names in channel order.
    """
    usable = where & np.isfinite(clear).all(axis=0)
    if not usable.any():
        return usable
    above = smoothed(haze_index(reflectance, bands) - haze_index(clear, bands), usable)
    limit = np.quantile(above[usable], _HAZE_CLEAN_SHARE) + _HAZE_CLEAN_MARGIN
    clean: BoolArray = usable & (above <= limit)
    return clean


def clean_sky_shift(composite: FloatArray, stack: Stack, target: int) -> FloatArray:
    """Return the shift `(band,)` that matches a composite to the clean sky of the target date, reflectance.

    Undetected haze only brightens, and blue most; so the shift is the median difference over the pixels
    whose smoothed blue difference is lowest. It is shrunk by (repeatability / residual)^2 where it explains
    the target worse than clear dates usually agree: a date with hardly any clean sky teaches nothing.

    Args:
        composite: reflectance `(band, y, x)` of other dates, NaN where none.
        stack: all dates of the cell, same bands.
        target: index of the date to match.
    """
    usable = is_observed(stack.classes[target]) & np.isfinite(composite).all(axis=0)
    if usable.sum() < _PIXELS_FOR_MATCH:
        return np.zeros(len(stack.bands), np.float32)
    difference = stack.reflectance(target) - composite
    smooth = smoothed(difference[stack.bands.index("blue") if "blue" in stack.bands else 0], usable)
    clean = usable & (smooth <= np.quantile(smooth[usable], _CLEAN_SHARE) + _CLEAN_MARGIN)
    delta = difference[:, clean]
    shift = np.median(delta, axis=1)
    residual = 1.4826 * np.median(np.abs(delta - shift[:, None]), axis=1)
    usual = repeatability(np.median(composite[:, clean], axis=1))
    believed: FloatArray = (np.minimum(1, np.square(usual / np.maximum(residual, 1e-6))) * shift).astype(np.float32)
    return believed
