"""Matching the radiometry of one date, or of a composite, to another date."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from stac.masks.classes import is_observed
from stac.stack import Stack

FloatArray = NDArray[np.float32]

#: Pixels needed to fit slope and offset, and to fit the offset alone.
_PIXELS_FOR_LINE, _PIXELS_FOR_OFFSET = 500, 50
_SLOPES = (0.5, 2.0)
#: Residuals beyond this many robust standard deviations are left out of the next iteration (changed
#: ground, missed cloud).
_TRIM, _ITERATIONS = 2.5, 4
#: Spread given to a donor that nothing could be fitted to, reflectance: honest ignorance.
_UNFITTED_SPREAD = 0.05


#: Clean sky: pixels whose neighbourhood is among the least brightened of the date. The share that is taken
#: as certainly clean, how much brighter (reflectance) still counts, and the side of the neighbourhood, px.
_CLEAN_SHARE, _CLEAN_MARGIN, _NEIGHBOURHOOD = 0.02, 0.003, 9


@dataclass(frozen=True, slots=True)
class HarmonisationFit:
    """Target = slope * donor + intercept, in reflectance, for one band of one donor."""

    item_id: str
    band: str
    slope: float
    intercept: float
    #: Standard deviation of all residuals (untrimmed), reflectance.
    residual_std: float
    #: Pixels seen on both dates.
    n_pixels: int


def repeatability(reflectance: NDArray[Any]) -> NDArray[Any]:
    """Return how well two clear dates agree at best, reflectance: 0.005 + 5 %, any shape.

    The Sentinel-2 level-2A requirement on surface reflectance (ESA, Sentinel-2 L2A data quality reports).
    """
    return 0.005 + 0.05 * reflectance


def harmonisation_fits(stack: Stack, target: int, donor: int) -> tuple[HarmonisationFit, ...]:
    """Fit every band of a donor date to the target date on the pixels that both dates saw.

    Obscured pixels of either date are never used.
    """
    both = is_observed(stack.classes[target]) & is_observed(stack.classes[donor])
    seen_there, seen_here = stack.reflectance(donor)[:, both], stack.reflectance(target)[:, both]
    return tuple(
        _fit(stack.item_ids[donor], band, x.astype(np.float64), y.astype(np.float64))
        for band, x, y in zip(stack.bands, seen_there, seen_here, strict=True)
    )


def _fit(item_id: str, band: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> HarmonisationFit:
    """Fit a line by trimmed least squares; fall back to an offset, then to nothing."""
    slope, intercept, spread = 1.0, 0.0, _UNFITTED_SPREAD
    if len(x) >= _PIXELS_FOR_OFFSET:
        intercept = float(np.median(y - x))
    if len(x) >= _PIXELS_FOR_LINE and x.std() > 1e-6:
        candidate = _trimmed_line(x, y)
        if _SLOPES[0] <= candidate[0] <= _SLOPES[1]:
            slope, intercept = candidate
    if len(x) >= _PIXELS_FOR_OFFSET:
        spread = float((y - slope * x - intercept).std())
    return HarmonisationFit(item_id, band, slope, intercept, spread, len(x))


def _trimmed_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    keep = np.ones(len(x), dtype=bool)
    slope, intercept = 1.0, 0.0
    for _ in range(_ITERATIONS):
        mean_x, mean_y = x[keep].mean(), y[keep].mean()
        variance = np.square(x[keep] - mean_x).mean()
        if variance <= 0:
            break
        slope = float(((x[keep] - mean_x) * (y[keep] - mean_y)).mean() / variance)
        intercept = float(mean_y - slope * mean_x)
        residual = y - slope * x - intercept
        centre = np.median(residual)
        robust = 1.4826 * np.median(np.abs(residual - centre))
        keep = np.abs(residual - centre) <= _TRIM * max(robust, 1e-6)
    return slope, intercept


def clean_sky_match(composite: FloatArray, stack: Stack, target: int) -> tuple[HarmonisationFit, ...]:
    """Return the shift per band that matches a composite to the clean sky of the target date.

    Undetected haze only brightens, and blue most; so the shift is the median difference over the pixels
    whose smoothed blue difference is lowest. It is shrunk by (repeatability / residual)^2 where it explains
    the target worse than clear dates usually agree: a date with hardly any clean sky teaches nothing.

    Args:
        composite: reflectance `(band, y, x)` of other dates, NaN where none.
        stack: all dates of the cell, same bands.
        target: index of the date to match.
    """
    usable = is_observed(stack.classes[target]) & np.isfinite(composite).all(axis=0)
    if usable.sum() < _PIXELS_FOR_LINE:
        return tuple(HarmonisationFit("median", band, 1.0, 0.0, _UNFITTED_SPREAD, 0) for band in stack.bands)
    difference = stack.reflectance(target) - composite
    clean = _clean_sky(difference[_haziest_band(stack.bands)], usable)
    return tuple(
        _believed_shift(band, level[clean], delta[clean])
        for band, level, delta in zip(stack.bands, composite, difference, strict=True)
    )


def _haziest_band(bands: tuple[str, ...]) -> int:
    """Return the index of the band that haze brightens most."""
    return bands.index("blue") if "blue" in bands else 0


def _clean_sky(difference: FloatArray, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the usable pixels `(y, x)` whose neighbourhood is least brightened."""
    share = uniform_filter(usable.astype(np.float32), _NEIGHBOURHOOD)
    total = uniform_filter(np.where(usable, difference, 0).astype(np.float32), _NEIGHBOURHOOD)
    smooth = total / np.maximum(share, 1e-3)
    limit = np.quantile(smooth[usable], _CLEAN_SHARE) + _CLEAN_MARGIN
    clean: NDArray[np.bool_] = usable & (smooth <= limit)
    return clean


def _believed_shift(band: str, level: FloatArray, delta: FloatArray) -> HarmonisationFit:
    shift = float(np.median(delta))
    residual = 1.4826 * float(np.median(np.abs(delta - shift)))
    usual = float(repeatability(np.asarray(np.median(level))))
    belief = min(1.0, (usual / max(residual, 1e-6)) ** 2)
    return HarmonisationFit("median", band, 1.0, belief * shift, residual, len(delta))
