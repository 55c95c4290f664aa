"""What other dates saw where the target date is hidden, as they saw it: nearest date, median, geomedian."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Protocol

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


def source_dates(stack: Stack, target: int, *, max_days: int | None = None, exclude: Collection[int] = ()) -> list[int]:
    """Return the other dates, best first: fewest days away, then later, then by id."""
    gap = np.abs(stack.days - stack.days[target])
    allowed = [
        i for i in range(len(stack.item_ids))
        if i != target and i not in exclude and (max_days is None or gap[i] <= max_days)
    ]  # fmt: skip
    return sorted(allowed, key=lambda i: (gap[i], -stack.days[i], stack.item_ids[i]))


def nearest_clear(
    stack: Stack, target: int, *, max_days: int | None = None, exclude: Collection[int] = ()
) -> TemporalComposite:
    """Return for every pixel what the nearest date saw there, as it saw it, with a spread of 0.

    Args:
        stack: all dates of the cell.
        target: index of the date to estimate.
        max_days: dates further away are not used.
        exclude: indices that are not used.
    """
    composite = empty_composite(stack)
    for date in source_dates(stack, target, max_days=max_days, exclude=exclude):
        fresh = (composite.source < 0) & is_observed(stack.classes[date])
        if fresh.any():
            composite.reflectance[:, fresh] = stack.reflectance(date)[:, fresh]
            composite.spread[:, fresh], composite.source[fresh] = 0, date
    return composite


def median_clear(
    stack: Stack, target: int, *, max_days: int | None = None, exclude: Collection[int] = ()
) -> TemporalComposite:
    """Return the per-band median over the other dates that saw each pixel, unmatched.

    `source` is the date whose observation is closest to the median; `spread` the standard deviation over
    the dates.
    """
    empty = empty_composite(stack)
    composite, spread, source = empty.reflectance, empty.spread, empty.source
    dates = source_dates(stack, target, max_days=max_days, exclude=exclude)
    some = np.isin(np.arange(len(stack.item_ids)), dates)
    seen = np.stack([is_observed(c) for c in stack.classes[some]]) if dates else np.zeros((0, *source.shape), bool)
    anywhere = seen.any(axis=0)
    if anywhere.any():
        values = np.stack([stack.reflectance(int(i))[:, anywhere] for i in np.flatnonzero(some)])
        values[~np.broadcast_to(seen[:, None, anywhere], values.shape)] = np.nan
        middle = np.nanmedian(values, axis=0)
        composite[:, anywhere], spread[:, anywhere] = middle, np.nanstd(values, axis=0)
        distance = np.abs(values - middle).sum(axis=1)
        source[anywhere] = np.flatnonzero(some)[np.nanargmin(distance, axis=0)].astype(np.int16)
    return TemporalComposite(composite, source, spread)


def geomedian_clear(
    stack: Stack, target: int, *, max_days: int | None = None, exclude: Collection[int] = ()
) -> TemporalComposite:
    """Return per pixel the spectrum with the least sum of distances to those of the other dates, unmatched.

    The geometric median (Roberts, Mueller and McIntyre 2017, IEEE TGRS 55, doi:10.1109/TGRS.2017.2723896). `source` is
    the date whose spectrum is nearest, `spread` the standard deviation over the dates.
    """
    from geomad import nangeomedian_pcm

    composite, dates = empty_composite(stack), source_dates(stack, target, max_days=max_days, exclude=exclude)
    if not dates:
        return composite
    seen = np.stack([is_observed(stack.classes[date]) for date in dates], axis=-1)
    anywhere = seen.any(axis=-1)
    if not anywhere.any():
        return composite
    # (pixel, 1, band, date): blocks are restored side by side, so one thread is enough here.
    values = np.stack([stack.reflectance(date)[:, anywhere].T for date in dates], axis=-1)[:, None]
    values[~np.broadcast_to(seen[anywhere][:, None, None], values.shape)] = np.nan
    middle = nangeomedian_pcm(values, eps=1e-5, num_threads=1, nocheck=True)
    deviation = values - middle[..., None]
    composite.reflectance[:, anywhere] = middle[:, 0].T
    composite.spread[:, anywhere] = np.sqrt(np.nanmean(np.square(deviation), axis=-1))[:, 0].T
    distance = np.where(seen[anywhere], np.square(deviation).sum(axis=2)[:, 0], np.inf)
    composite.source[anywhere] = np.array(dates, np.int16)[distance.argmin(axis=-1)]
    return composite


class Composite(Protocol):
    """A composite that needs no fit."""

    def __call__(
        self, stack: Stack, target: int, *, max_days: int | None = None, exclude: Collection[int] = ()
    ) -> TemporalComposite:
        """Return the composite of a window."""


@dataclass(frozen=True, slots=True)
class SimpleComposite:
    """A composite with the interface of a fitted composite."""

    name: str
    composite: Composite
    max_days: int | None

    @property
    def fits(self) -> tuple[NormalisationFit, ...]:
        """Nothing was matched."""
        return ()

    def apply(
        self, stack: Stack, target: int, *, exclude: Collection[int] = (), where: BoolArray | None = None
    ) -> TemporalComposite:
        """Return the composite of a window, wherever it is wanted; its spread includes what clear dates differ by."""
        del where
        found = self.composite(stack, target, max_days=self.max_days, exclude=exclude)
        return replace(found, spread=np.hypot(found.spread, repeatability(found.reflectance)).astype(np.float32))


def empty_composite(stack: Stack) -> TemporalComposite:
    """Return a composite that knows nothing of the stack's pixels."""
    nothing = np.full(stack.dn.shape[1:], np.nan, np.float32)
    return TemporalComposite(nothing, np.full(nothing.shape[1:], -1, np.int16), nothing.copy())
