"""Temporal priors: what other dates saw where the target date is hidden, matched to the target date."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stac.composite.normalisation import HarmonisationFit, harmonisation_fits, repeatability
from stac.load.stack import Stack
from stac.masks.classes import is_observed

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


def geomedian_clear(
    stack: Stack, target: int, *, max_days: int | None = None, exclude: Collection[int] = ()
) -> TemporalPrior:
    """Return per pixel the spectrum with the least sum of distances to those of the other dates, unmatched.

    The geometric median (Roberts, Mueller and McIntyre 2017, IEEE TGRS 55, doi:10.1109/TGRS.2017.2723896). `source` is
    the date whose spectrum is nearest, `spread` the standard deviation over the dates.
    """
    from geomad import nangeomedian_pcm

    prior, donors = empty_prior(stack), donors_of(stack, target, max_days=max_days, exclude=exclude)
    if not donors:
        return prior
    seen = np.stack([is_observed(stack.classes[donor]) for donor in donors], axis=-1)
    anywhere = seen.any(axis=-1)
    if not anywhere.any():
        return prior
    # (pixel, 1, band, date): blocks are restored side by side, so one thread is enough here.
    values = np.stack([stack.reflectance(donor)[:, anywhere].T for donor in donors], axis=-1)[:, None]
    values[~np.broadcast_to(seen[anywhere][:, None, None], values.shape)] = np.nan
    middle = nangeomedian_pcm(values, eps=1e-5, num_threads=1, nocheck=True)
    deviation = values - middle[..., None]
    prior.reflectance[:, anywhere] = middle[:, 0].T
    prior.spread[:, anywhere] = np.sqrt(np.nanmean(np.square(deviation), axis=-1))[:, 0].T
    distance = np.where(seen[anywhere], np.square(deviation).sum(axis=2)[:, 0], np.inf)
    prior.source[anywhere] = np.array(donors, np.int16)[distance.argmin(axis=-1)]
    return prior


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
