"""Temporal priors: what other dates saw where the target date is hidden, matched to the target date."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stac.harmonisation import HarmonisationFit, clean_sky_match, harmonisation_fits, repeatability
from stac.masks.classes import is_observed
from stac.stack import Stack

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TemporalPrior:
    """An estimate of the target date from other dates."""

    #: `(band, y, x)`, NaN where no other date saw the ground.
    reflectance: FloatArray
    #: `(y, x)`, index into the stack of the date each pixel is from, -1 where none.
    source: NDArray[np.int16]
    #: `(band, y, x)`, standard deviation of the harmonisation residual, reflectance; NaN where none.
    spread: FloatArray
    fits: tuple[HarmonisationFit, ...]


def donors_of(stack: Stack, target: int, *, max_days: int | None = None, exclude: Collection[int] = ()) -> list[int]:
    """Return the other dates, best first: fewest days away, then later, then by id."""
    gap = np.abs(stack.days - stack.days[target])
    allowed = [
        i for i in range(len(stack.item_ids))
        if i != target and i not in exclude and (max_days is None or gap[i] <= max_days)
    ]  # fmt: skip
    return sorted(allowed, key=lambda i: (gap[i], -stack.days[i], stack.item_ids[i]))


def nearest_clear(
    stack: Stack,
    target: int,
    *,
    harmonised: bool = True,
    max_days: int | None = None,
    exclude: Collection[int] = (),
) -> TemporalPrior:
    """Return for every pixel what the nearest date saw there, matched to the target date.

    Args:
        stack: all dates of the cell.
        target: index of the date to estimate; its own pixels only steer the match.
        harmonised: False copies unchanged.
        max_days: dates further away are not used.
        exclude: indices that are not used.
    """
    prior, spread, source, fits = _empty(stack)
    for donor in donors_of(stack, target, max_days=max_days, exclude=exclude):
        fresh = (source < 0) & is_observed(stack.classes[donor])
        if not fresh.any():
            continue
        found = harmonisation_fits(stack, target, donor)
        prior[:, fresh] = _matched(stack, donor, found, harmonised)[:, fresh]
        spread[:, fresh] = np.array([fit.residual_std for fit in found], np.float32)[:, None]
        source[fresh] = donor
        fits.extend(found)
    return TemporalPrior(prior, source, spread, tuple(fits))


def median_clear(
    stack: Stack, target: int, *, max_days: int | None = None, exclude: Collection[int] = ()
) -> TemporalPrior:
    """Return the per-band median over the other dates that saw each pixel, unmatched.

    `source` is the date whose observation is closest to the median; `spread` the standard deviation over
    the dates.
    """
    prior, spread, source, _ = _empty(stack)
    donors = donors_of(stack, target, max_days=max_days, exclude=exclude)
    some = np.isin(np.arange(len(stack.item_ids)), donors)
    seen = np.stack([is_observed(c) for c in stack.classes[some]]) if donors else np.zeros((0, *source.shape), bool)
    anywhere = seen.any(axis=0)
    if anywhere.any():
        values = np.stack([stack.reflectance(int(i))[:, anywhere] for i in np.flatnonzero(some)])
        values[~np.broadcast_to(seen[:, None, anywhere], values.shape)] = np.nan
        middle = np.nanmedian(values, axis=0)
        prior[:, anywhere], spread[:, anywhere] = middle, np.nanstd(values, axis=0)
        distance = np.abs(values - middle).sum(axis=1)
        source[anywhere] = np.flatnonzero(some)[np.nanargmin(distance, axis=0)].astype(np.int16)
    return TemporalPrior(prior, source, spread, ())


@dataclass(frozen=True, slots=True)
class FittedPrior:
    """What a prior learns once about a whole cell; it is then applied to any window, pixel by pixel."""

    #: One per band.
    fits: tuple[HarmonisationFit, ...]
    max_days: int | None

    def apply(self, stack: Stack, target: int, *, exclude: Collection[int] = ()) -> TemporalPrior:
        """Return the prior of a window; a pixel's value depends on its own observations alone.

        Args:
            stack: the same dates, in the same order, that the prior was fitted on.
            target: index of the date to estimate.
            exclude: indices that are not used.
        """
        median = median_clear(stack, target, max_days=self.max_days, exclude=exclude)
        shift = np.array([fit.intercept for fit in self.fits], np.float32)[:, None, None]
        # A dark pixel stays within the physical range whatever the shift.
        reflectance = np.where(np.isnan(median.reflectance), np.nan, np.maximum(median.reflectance + shift, 1e-4))
        spread = np.hypot(median.spread, repeatability(median.reflectance))
        return TemporalPrior(reflectance.astype(np.float32), median.source, spread.astype(np.float32), self.fits)


def fit_matched_median(
    overview: Stack, target: int, *, max_days: int | None = None, exclude: Collection[int] = ()
) -> FittedPrior:
    """Learn how the median of the other dates is matched to the target date's clean-sky pixels.

    The prior of the product. A line fitted on all clear pixels of a cloudy date carries the haze around its
    clouds into the result; the match used here looks at the cleanest sky only and is believed as far as it
    explains the target better than dates usually agree (docs/results/product.md compares them). `spread`
    adds the deviation between dates to their usual repeatability.

    Args:
        overview: all dates of the whole cell, at full resolution or thinned.
        target: index of the date to estimate; its own pixels only steer the match.
        max_days: dates further away are not used.
        exclude: indices that are not used.
    """
    median = median_clear(overview, target, max_days=max_days, exclude=exclude)
    return FittedPrior(clean_sky_match(median.reflectance, overview, target), max_days)


def matched_median(
    stack: Stack, target: int, *, max_days: int | None = None, exclude: Collection[int] = ()
) -> TemporalPrior:
    """Return the matched median of a cell that is in memory as a whole; see `fit_matched_median`."""
    return fit_matched_median(stack, target, max_days=max_days, exclude=exclude).apply(stack, target, exclude=exclude)


def _empty(stack: Stack) -> tuple[FloatArray, FloatArray, NDArray[np.int16], list[HarmonisationFit]]:
    shape = stack.dn.shape[1:]
    nothing = np.full(shape, np.nan, np.float32)
    return nothing, nothing.copy(), np.full(shape[1:], -1, np.int16), []


def _matched(stack: Stack, donor: int, fits: tuple[HarmonisationFit, ...], harmonised: bool) -> FloatArray:
    image = stack.reflectance(donor)
    if not harmonised:
        return image
    slope, intercept = (np.array(list(column), np.float32)[:, None, None] for column in _columns(fits))
    matched: FloatArray = slope * image + intercept
    return matched


def _columns(fits: tuple[HarmonisationFit, ...]) -> Iterator[Iterator[float]]:
    yield (fit.slope for fit in fits)
    yield (fit.intercept for fit in fits)
