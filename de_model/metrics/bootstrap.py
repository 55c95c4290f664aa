"""How sure a mean over images is: the paired percentile bootstrap (Efron and Tibshirani 1993, chapter 13).

Images are drawn with replacement. Equal `seed` and number of images give equal draws, so that two candidates scored on
the same images are compared image by image, and a table can be made again to the last digit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from de_model.errors import InvalidModelInput

#: Draws in memory at once.
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals are made; equal values give equal intervals."""

    resamples: int = 2000
    #: Probability that the interval is to cover the true mean.
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1 or not 0 < self.level < 1:
            raise InvalidModelInput(
                f"Bootstrap with {self.resamples} resamples at level {self.level}; give 1 or more, and a level in 0..1."
            )


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over images and its interval; NaN where undefined."""

    mean: float
    low: float
    high: float
    #: Images with a defined value.
    images: int


def mean_interval(values: ArrayLike, options: Bootstrap) -> Interval:
    """Return the mean of one figure over images and its percentile interval.

    Images whose value is NaN (not defined there) are left out. With fewer than two images left there is no interval.
    The ends are values of the bootstrap distribution, not interpolated, so infinite figures (the PSNR of equal images)
    stay what they are.

    Args:
        values: `(image,)`.
        options: resamples, level and seed.

    Raises:
        InvalidModelInput: the values are not one per image.
    """
    array = _one_per_image(values)
    array = array[~np.isnan(array)]
    if not len(array):
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float(array.mean())
    if len(array) < 2:
        return Interval(mean, np.nan, np.nan, len(array))
    tail = 50 * (1 - options.level)
    low, high = np.percentile(_resampled_means(array, options), [tail, 100 - tail], method="inverted_cdf")
    return Interval(mean, float(low), float(high), len(array))


def difference_interval(one: ArrayLike, other: ArrayLike, options: Bootstrap) -> Interval:
    """Return the mean of `one - other` over the same images, and its paired percentile interval.

    Two equal infinite values differ by 0. Images where either value is NaN are left out.

    Args:
        one: `(image,)`, a figure of one candidate.
        other: `(image,)`, the same figure of another candidate on the same images in the same order.
        options: resamples, level and seed.

    Raises:
        InvalidModelInput: the candidates were scored on different numbers of images.
    """
    a, b = _one_per_image(one), _one_per_image(other)
    if a.shape != b.shape:
        raise InvalidModelInput(f"{len(a)} and {len(b)} images cannot be paired; score both candidates on the same.")
    equal = a == b
    return mean_interval(np.subtract(a, b, out=np.zeros_like(a), where=~equal), options)


def _one_per_image(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise InvalidModelInput(f"Values of shape {array.shape}; the bootstrap wants one value per image.")
    return array


def _resampled_means(array: NDArray[np.float64], options: Bootstrap) -> NDArray[np.float64]:
    generator = np.random.default_rng(options.seed)
    means = []
    for start in range(0, options.resamples, _CHUNK):
        rows = min(_CHUNK, options.resamples - start)
        means.append(array[generator.integers(0, len(array), (rows, len(array)))].mean(axis=1))
    return np.concatenate(means)
