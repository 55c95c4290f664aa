"""The geometric median of dates: robust like a median, but a spectrum that all bands agree on."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from stac.composite import TemporalPrior, donors_of, empty_prior
from stac.masks.classes import is_observed
from stac.stack import Stack

FloatArray = NDArray[np.float32]

_ITERATIONS = 20
#: Reflectance below which two spectra count as equal.
_EQUAL = np.float32(1e-4)


def geomedian_clear(
    stack: Stack, target: int, *, max_days: int | None = None, exclude: Collection[int] = ()
) -> TemporalPrior:
    """Return per pixel the spectrum with the least sum of distances to those of the other dates, unmatched.

    Weiszfeld's iteration (Roberts, Mueller and McIntyre 2017, IEEE TGRS 55, doi:10.1109/TGRS.2017.2723896). `source` is
    the date whose spectrum is nearest, `spread` the standard deviation over the dates.
    """
    prior = empty_prior(stack)
    donors = donors_of(stack, target, max_days=max_days, exclude=exclude)
    if not donors:
        return prior
    seen = np.stack([is_observed(stack.classes[donor]) for donor in donors])
    anywhere = seen.any(axis=0)
    values = np.stack([stack.reflectance(donor)[:, anywhere] for donor in donors])
    known = seen[:, None, anywhere]
    values = np.where(known, values, 0)
    middle = _weiszfeld(values, known)
    prior.reflectance[:, anywhere] = middle
    deviation = np.where(known, np.square(values - middle), 0).sum(axis=0) / known.sum(axis=0)
    prior.spread[:, anywhere] = np.sqrt(deviation)
    distance = np.where(known[:, 0], _distance(values, middle), np.inf)
    prior.source[anywhere] = np.array(donors, np.int16)[distance.argmin(axis=0)]
    return prior


def _weiszfeld(values: FloatArray, known: NDArray[np.bool_]) -> FloatArray:
    """Return the geometric median `(band, pixel)` of `(date, band, pixel)` where `known` `(date, 1, pixel)`."""
    middle = np.where(known, values, 0).sum(axis=0) / known.sum(axis=0)
    for _ in range(_ITERATIONS):
        weight = known / np.maximum(_distance(values, middle), _EQUAL)[:, None]
        middle = (weight * values).sum(axis=0) / weight.sum(axis=0)
    result: FloatArray = middle.astype(np.float32)
    return result


def _distance(values: FloatArray, middle: FloatArray) -> FloatArray:
    distance: FloatArray = np.sqrt(np.square(values - middle).sum(axis=1))
    return distance
