"""What other dates saw where the target date is hidden, as they saw it: nearest date, median, geomedian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stac.composite.normalisation import NormalisationFit, repeatability
from stac.load.stack import Stack
from stac.masks.classes import is_observed

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TemporalComposite:
    """An estimate of the target date from other dates."""

    #: `(band, y, x)`, NaN where no other date saw the ground.
    reflectance: FloatArray
    #: `(y, x)`, index into the stack of the date each pixel is from, -1 where none.
    source: NDArray[np.int16]
    #: `(band, y, x)`, standard deviation, reflectance; NaN where none.
    spread: FloatArray


def source_dates(stack: Stack, target: int, *, max_days: int | None = None) -> list[int]:
    """Return the other dates, best first: fewest days away, then later, then by id."""
    gap = np.abs(stack.days - stack.days[target])
    allowed = [i for i in range(len(stack.item_ids)) if i != target and (max_days is None or gap[i] <= max_days)]
    return sorted(allowed, key=lambda i: (gap[i], -stack.days[i], stack.item_ids[i]))


def nearest_clear(stack: Stack, target: int, *, max_days: int | None = None) -> TemporalComposite:
    """Return for every pixel what the nearest date saw there, as it saw it, with a spread of 0.

    Args:
        stack: all dates of the cell.
        target: index of the date to estimate.
        max_days: dates further away are not used.
    """
    composite = empty_composite(stack)
    for date in source_dates(stack, target, max_days=max_days):
        fresh = (composite.source < 0) & is_observed(stack.classes[date])
        if fresh.any():
            composite.reflectance[:, fresh] = stack.reflectance(date)[:, fresh]
            composite.spread[:, fresh], composite.source[fresh] = 0, date
    return composite


def median_clear(stack: Stack, target: int, *, max_days: int | None = None) -> TemporalComposite:
    """Return the per-band median over the other dates that saw each pixel, unmatched.

    `source` is the date whose spectrum is nearest, the best of several; `spread` the root mean square deviation of the
    dates.
    """
    return _middle_clear(stack, source_dates(stack, target, max_days=max_days), median)


def geomedian_clear(stack: Stack, target: int, *, max_days: int | None = None) -> TemporalComposite:
    """Return the geometric median of the other dates that saw each pixel, unmatched; see `median_clear`."""
    return _middle_clear(stack, source_dates(stack, target, max_days=max_days), geomedian)


def median(looks: FloatArray) -> FloatArray:
    """Return the median `(band, pixel)`, band by band, of looks `(date, band, pixel)` that are NaN where unknown."""
    middle: FloatArray = np.nanmedian(looks, axis=0)
    return middle


def geomedian(looks: FloatArray) -> FloatArray:
    """Return the spectra `(band, pixel)` with the least sum of distances to looks `(date, band, pixel)`.

    The geometric median (Roberts, Mueller and McIntyre 2017, IEEE TGRS 55, doi:10.1109/TGRS.2017.2723896).
    """
    from geomad import nangeomedian_pcm

    # (pixel, 1, band, date): blocks are made side by side, so one thread is enough here.
    spectra = np.ascontiguousarray(looks.transpose(2, 1, 0)[:, None])
    middle: FloatArray = nangeomedian_pcm(spectra, eps=1e-5, num_threads=1, nocheck=True)[:, 0].T
    return middle


def _middle_clear(stack: Stack, dates: list[int], middle_of: Callable[[FloatArray], FloatArray]) -> TemporalComposite:
    """Return the middle of what some dates saw of each pixel."""
    composite = empty_composite(stack)
    seen = np.array([is_observed(stack.classes[date]) for date in dates]).reshape(-1, *composite.source.shape)
    some = seen.any(axis=0)
    if not some.any():
        return composite
    looks = np.stack([stack.reflectance(date)[:, some] for date in dates])
    looks[~np.broadcast_to(seen[:, None, some], looks.shape)] = np.nan
    middle = middle_of(looks)
    deviation = np.square(looks - middle)
    composite.reflectance[:, some], composite.spread[:, some] = middle, np.sqrt(np.nanmean(deviation, axis=0))
    distance = np.where(seen[:, some], deviation.sum(axis=1), np.inf)
    composite.source[some] = np.array(dates, np.int16)[distance.argmin(axis=0)]
    return composite


@dataclass(frozen=True, slots=True)
class SimpleComposite:
    """A composite with the interface of a fitted composite."""

    composite: Callable[..., TemporalComposite]
    max_days: int | None

    @property
    def fits(self) -> tuple[NormalisationFit, ...]:
        """Nothing was matched."""
        return ()

    def apply(self, stack: Stack, target: int, *, where: BoolArray | None = None) -> TemporalComposite:
        """Return the composite of a window, wherever it is wanted; its spread includes what clear dates differ by."""
        del where
        found = self.composite(stack, target, max_days=self.max_days)
        return replace(found, spread=np.hypot(found.spread, repeatability(found.reflectance)).astype(np.float32))


def empty_composite(stack: Stack) -> TemporalComposite:
    """Return a composite that knows nothing of the stack's pixels."""
    nothing = np.full(stack.dn.shape[1:], np.nan, np.float32)
    return TemporalComposite(nothing, np.full(nothing.shape[1:], -1, np.int16), nothing.copy())
