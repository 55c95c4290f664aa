"""How sure a mean over images is: the paired percentile bootstrap (Efron and Tibshirani 1993, chapter 13).

Images are drawn with replacement. Equal numbers of images give equal draws, so that two candidates scored on the same
images are compared image by image, and a table can be made again to the last digit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from de_model.errors import InvalidModelInput

#: Draws, and the probability that an interval is to cover the true mean.
_RESAMPLES, _LEVEL = 2000, 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over images and its interval; NaN where undefined."""

    mean: float
    low: float
    high: float
    #: Images with a defined value.
    images: int


def mean_interval(values: ArrayLike) -> Interval:
    """Return the mean of one figure over images and its percentile interval.

    Images whose value is NaN (not defined there) are left out. With fewer than two images left there is no interval.
    The ends are values of the bootstrap distribution, not interpolated, so infinite figures (the PSNR of equal images)
    stay what they are.

    Args:
        values: `(image,)`.
    """
    array = np.asarray(values, np.float64)
    array = array[~np.isnan(array)]
    if not len(array):
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float(array.mean())
    if len(array) < 2:
        return Interval(mean, np.nan, np.nan, len(array))
    drawn = np.random.default_rng(0).integers(0, len(array), (_RESAMPLES, len(array)))
    tail = 50 * (1 - _LEVEL)
    low, high = np.percentile(array[drawn].mean(axis=1), [tail, 100 - tail], method="inverted_cdf")
    return Interval(mean, float(low), float(high), len(array))


def difference_interval(one: ArrayLike, other: ArrayLike) -> Interval:
    """Return the mean of `one - other` over the same images, and its paired percentile interval.

    Two equal infinite values differ by 0. Images where either value is NaN are left out.

    Args:
        one: `(image,)`, a figure of one candidate.
        other: `(image,)`, the same figure of another candidate on the same images in the same order.

    Raises:
        InvalidModelInput: the candidates were scored on different numbers of images.
    """
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if a.shape != b.shape:
        raise InvalidModelInput(f"{len(a)} and {len(b)} images cannot be paired; score both candidates on the same.")
    equal = a == b
    return mean_interval(np.subtract(a, b, out=np.zeros_like(a), where=~equal))
