"""Temporal priors: what other dates saw where the target date is hidden, matched to the target date."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stac.harmonisation import HarmonisationFit, clean_sky_match, harmonisation_fits, repeatability
from stac.masks.classes import is_observed
from stac.stack import Stack

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


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
        harmonised: False copies unchanged, with a spread of 0.
        max_days: dates further away are not used.
        exclude: indices that are not used.
    """
    empty, fits = empty_prior(stack), list[HarmonisationFit]()
    prior, spread, source = empty.reflectance, empty.spread, empty.source
    for donor in donors_of(stack, target, max_days=max_days, exclude=exclude):
        fresh = (source < 0) & is_observed(stack.classes[donor])
        if not fresh.any():
            continue
        found = harmonisation_fits(stack, target, donor) if harmonised else ()
        prior[:, fresh] = (_matched(stack, donor, found) if found else stack.reflectance(donor))[:, fresh]
        spread[:, fresh] = np.array([fit.residual_std for fit in found], np.float32)[:, None] if found else 0
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
    empty = empty_prior(stack)
    prior, spread, source = empty.reflectance, empty.spread, empty.source
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


class Composite(Protocol):
    """A composite that needs no fit."""

    def __call__(
        self, stack: Stack, target: int, *, max_days: int | None = None, exclude: Collection[int] = ()
    ) -> TemporalPrior:
        """Return the composite of a window."""


@dataclass(frozen=True, slots=True)
class CompositePrior:
    """A composite with the interface of a fitted prior."""

    name: str
    composite: Composite
    max_days: int | None

    @property
    def fits(self) -> tuple[HarmonisationFit, ...]:
        """Nothing was matched."""
        return ()

    def apply(
        self, stack: Stack, target: int, *, exclude: Collection[int] = (), where: BoolArray | None = None
    ) -> TemporalPrior:
        """Return the composite of a window, wherever it is wanted; its spread includes what clear dates differ by."""
        del where
        found = self.composite(stack, target, max_days=self.max_days, exclude=exclude)
        return replace(found, spread=np.hypot(found.spread, repeatability(found.reflectance)).astype(np.float32))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"max_days": self.max_days}


@dataclass(frozen=True, slots=True)
class MatchedMedian:
    """What the matched median learns once about a whole cell; it is then applied to any window, pixel by pixel."""

    #: One per band.
    fits: tuple[HarmonisationFit, ...]
    max_days: int | None

    def apply(
        self, stack: Stack, target: int, *, exclude: Collection[int] = (), where: BoolArray | None = None
    ) -> TemporalPrior:
        """Return the prior of a window; a pixel's value depends on its own observations alone.

        Args:
            stack: the same dates, in the same order, that the prior was fitted on.
            target: index of the date to estimate.
            exclude: indices that are not used.
            where: not looked at: all pixels are estimated.
        """
        del where
        median = median_clear(stack, target, max_days=self.max_days, exclude=exclude)
        shift = np.array([fit.intercept for fit in self.fits], np.float32)[:, None, None]
        # A dark pixel stays within the physical range whatever the shift.
        reflectance = np.where(np.isnan(median.reflectance), np.nan, np.maximum(median.reflectance + shift, 1e-4))
        spread = np.hypot(median.spread, repeatability(median.reflectance))
        return TemporalPrior(reflectance.astype(np.float32), median.source, spread.astype(np.float32), self.fits)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"fits": [asdict(fit) for fit in self.fits], "max_days": self.max_days}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MatchedMedian:
        """Read `to_dict` back."""
        return cls(tuple(HarmonisationFit(**fit) for fit in values["fits"]), values["max_days"])


def fit_matched_median(
    overview: Stack, target: int, *, max_days: int | None = None, exclude: Collection[int] = ()
) -> MatchedMedian:
    """Learn how the median of the other dates is matched to the target date's clean-sky pixels.

    A line fitted on all clear pixels of a cloudy date carries the haze around its
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
    return MatchedMedian(clean_sky_match(median.reflectance, overview, target), max_days)


def matched_median(
    stack: Stack, target: int, *, max_days: int | None = None, exclude: Collection[int] = ()
) -> TemporalPrior:
    """Return the matched median of a cell that is in memory as a whole; see `fit_matched_median`."""
    return fit_matched_median(stack, target, max_days=max_days, exclude=exclude).apply(stack, target, exclude=exclude)


def empty_prior(stack: Stack) -> TemporalPrior:
    """Return a prior that knows nothing of the stack's pixels."""
    nothing = np.full(stack.dn.shape[1:], np.nan, np.float32)
    return TemporalPrior(nothing, np.full(nothing.shape[1:], -1, np.int16), nothing.copy(), ())


def _matched(stack: Stack, donor: int, fits: tuple[HarmonisationFit, ...]) -> FloatArray:
    image = stack.reflectance(donor)
    slope, intercept = (np.array(list(column), np.float32)[:, None, None] for column in _columns(fits))
    matched: FloatArray = slope * image + intercept
    return matched


def _columns(fits: tuple[HarmonisationFit, ...]) -> Iterator[Iterator[float]]:
    yield (fit.slope for fit in fits)
    yield (fit.intercept for fit in fits)
