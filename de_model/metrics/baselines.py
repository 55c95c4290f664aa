"""Trivial ways to fill clouds: what a model must beat before it is used, and what fills where it does not.

Plain numpy on reflectance. Images are `(band, y, x)`, masks `(y, x)`; nothing here is trained or fitted to a place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d, gaussian_filter

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Scales of the interpolation, standard deviations in pixels, fine to coarse.
_SCALES = (2.0, 4.0, 8.0, 16.0, 32.0)
#: Where a Gaussian is cut off, in standard deviations.
_TRUNCATE = 3.0
#: Share of known ground under a Gaussian that is believed alone: the finest scale that sees a gap's rim fills it.
_ENOUGH = 1 / 8
#: Pixels around a gap that its interpolation looks at; with them a window gives what the whole image gives, bit by bit.
REACH_PX = math.ceil(_SCALES[-1] * _TRUNCATE)

#: Pixels needed to fit a line, and to fit an offset alone; slopes outside the range are not believed.
_PIXELS_FOR_LINE, _PIXELS_FOR_OFFSET = 500, 50
_SLOPES = (0.5, 2.0)
#: How far clear dates agree at best: 0.005 + 5 %, the requirement on level-2A reflectance of Sentinel-2.
_USUAL = (0.005, 0.05)
#: Residuals beyond this many robust standard deviations are left out of the next iteration.
_TRIM, _ITERATIONS = 2.5, 4


@dataclass(frozen=True, slots=True)
class Interpolated:
    """An image filled from its own known pixels."""

    #: `(band, y, x)`, reflectance.
    image: FloatArray
    #: Standard deviation of the known pixels around, same shape.
    spread: FloatArray


def flat_colour(image: FloatArray, known: BoolArray) -> tuple[float, ...]:
    """Return the median of the known pixels per band; NaN where none is known."""
    if not known.any():
        return (math.nan,) * len(image)
    return tuple(float(value) for value in np.median(image[:, known], axis=1))


def interpolated(image: FloatArray, known: BoolArray, level: Sequence[float]) -> Interpolated:
    """Fill an image from the known pixels around every pixel: normalised convolution, fine to coarse.

    Every scale counts as far as known pixels lie within it; what it leaves is filled by the next coarser one, and at
    last by one colour. Scales that no gap is wide enough for are left out.

    Args:
        image: reflectance; only its known pixels are looked at.
        known: where the ground is known.
        level: per band, what is taken where nothing is known within `REACH_PX`.
    """
    values = np.where(known, image, 0).astype(np.float64)
    mean, square = np.zeros(values.shape), np.zeros(values.shape)
    left = np.ones(known.shape)
    for scale in _SCALES:
        if not left[~known].any():
            break
        weight = _smooth(known.astype(np.float64), scale)
        share, trust = np.maximum(weight, 1e-12), np.minimum(weight / _ENOUGH, 1)
        part = left * trust / share
        for total, each in ((mean, values), (square, values**2)):
            total += part * np.stack([_smooth(band, scale) for band in each])
        left *= 1 - trust
    colour = np.asarray(level, np.float64)[:, None, None]
    # Without clear ground the level is not known, and nothing asks for it where none of it is left.
    mean += np.where(left > 0, left * colour, 0)
    square += np.where(left > 0, left * colour**2, 0)
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    return Interpolated(np.where(known, image, mean).astype(np.float32), spread.astype(np.float32))


def _smooth(plane: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Return a plane `(y, x)` under a Gaussian; what lies outside of it counts as 0."""
    reach = math.ceil(scale * _TRUNCATE)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / scale) ** 2)
    kernel /= kernel.sum()
    rows = correlate1d(plane, kernel, axis=0, mode="constant")
    smooth: NDArray[np.float64] = correlate1d(rows, kernel, axis=1, mode="constant")
    return smooth


def blurred(image: FloatArray, sigma: float = 0.7) -> FloatArray:
    """Return an image under a Gaussian of `sigma` pixels: what taking away fine detail alone gains."""
    smooth: FloatArray = gaussian_filter(image, (0, sigma, sigma))
    return smooth


def nearest_date(images: Sequence[FloatArray], seen: Sequence[BoolArray]) -> FloatArray:
    """Return for every pixel what the first date that saw it shows; NaN where none did.

    Args:
        images: of other dates, the nearest first.
        seen: where each of them saw the ground.
    """
    filled = np.full(images[0].shape, np.nan, np.float32)
    empty = np.ones(filled.shape[1:], bool)
    for image, clear in zip(images, seen, strict=True):
        here = empty & clear
        filled[:, here] = image[:, here]
        empty &= ~here
    return filled


def mean_of_dates(images: Sequence[FloatArray], seen: Sequence[BoolArray], most: int = 2) -> FloatArray:
    """Return for every pixel the mean of the first `most` dates that saw it; NaN where none did."""
    total = np.zeros(images[0].shape, np.float32)
    count = np.zeros(total.shape[1:], np.int16)
    for image, clear in zip(images, seen, strict=True):
        here = clear & (count < most)
        total[:, here] += image[:, here]
        count += here
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def linear_match(image: FloatArray, target: FloatArray, both: BoolArray) -> FloatArray:
    """Return an image as the target date would show it: one line per band, errors in both dates (reduced major axis).

    Least squares would take all noise for the target's and flatten the image; the reduced major axis keeps its
    contrast. Changed ground and missed clouds are trimmed.

    Args:
        image: another date.
        target: the date that is restored.
        both: where both saw the ground.
    """
    matched = np.empty_like(image)
    for band, (there, here) in enumerate(zip(image[:, both], target[:, both], strict=True)):
        slope, offset = _believed(there.astype(np.float64), here.astype(np.float64))
        matched[band] = np.float32(slope) * image[band] + np.float32(offset)
    return matched


def _believed(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Return slope and offset, drawn towards a plain copy as far as the line explains the target worse than usual.

    Haze of the target date says nothing of the ground below its clouds: a line that follows it is worse than a copy.
    """
    slope, offset = _line(x, y)
    if len(x) < _PIXELS_FOR_OFFSET:
        return slope, offset
    residual = y - slope * x - offset
    found = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
    usual = _USUAL[0] + _USUAL[1] * float(np.median(y))
    belief = min(1.0, (usual / max(found, 1e-6)) ** 2)
    return 1 + belief * (slope - 1), belief * offset


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Return slope and offset of a trimmed reduced major axis; a median shift, or nothing, where it is not believed."""
    if len(x) < _PIXELS_FOR_OFFSET:
        return 1.0, 0.0
    shift = float(np.median(y - x))
    if len(x) < _PIXELS_FOR_LINE:
        return 1.0, shift
    slope, offset = 1.0, shift
    for _ in range(_ITERATIONS):
        residual = y - slope * x - offset
        centre = float(np.median(residual))
        robust = 1.4826 * float(np.median(np.abs(residual - centre)))
        keep = np.abs(residual - centre) <= _TRIM * max(robust, 1e-6)
        if keep.sum() < _PIXELS_FOR_LINE or x[keep].std() < 1e-6:
            return 1.0, shift
        slope = float(y[keep].std() / x[keep].std())
        offset = float(y[keep].mean() - slope * x[keep].mean())
    return (slope, offset) if _SLOPES[0] <= slope <= _SLOPES[1] else (1.0, shift)
