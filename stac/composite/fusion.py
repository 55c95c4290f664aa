"""The fused composite: every date as it would look on the target date, averaged by how well each one agrees with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stac.composite.haze import haze_span, least_hazy
from stac.composite.normalisation import (
    DateMap,
    NormalisationFit,
    ResidualField,
    clipped,
    fit_field,
    fit_map,
    fit_offset,
    summed_up,
)
from stac.composite.temporal import TemporalComposite, empty_composite, median_clear, source_dates
from stac.load.stack import Stack, overview_factor
from stac.masks.classes import is_observed
from stac.reflectance import PRODUCT_SCALE

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Matrix = NDArray[np.float64]

#: A target is hazy when its haze index spans this much more than the cleanest other date's over the same ground.
_HAZY = 2.2
#: Pixels of an overview that are looked at: more teach nothing new.
_MOST_PIXELS = 500_000
#: Shared pixels needed for the error of a date; standard deviation of a date that shares fewer, reflectance.
_PIXELS_FOR_ERROR, _UNFITTED_SPREAD = 200, 0.05
#: Dates that are averaged at a pixel: the best of those that saw it.
_MOST_DATES = 8
#: Pixels that are averaged at once.
_CHUNK = 1 << 14
#: Share of a date's variance that is its own at least, however much of it all dates have in common.
_OWN_SHARE = 0.1
#: Variance of a date that agrees perfectly: that of the rounding of digital numbers.
_LEAST_VARIANCE = 1e-8
#: Less than any weight: what 0 is divided by where no date has come.
_LEAST_WEIGHT = np.float32(1e-30)


@dataclass(frozen=True, slots=True)
class FusedComposite:
    """What the fused composite learns once about a whole cell; it is then applied to any window, pixel by pixel."""

    bands: tuple[str, ...]
    #: The dates, those of least expected error first.
    maps: tuple[DateMap, ...]
    #: Standard deviation of the residuals `[band][date]`, reflectance, dates as in `maps`.
    errors: tuple[tuple[float, ...], ...]
    #: The part of it that all dates share, the target's own `[band]`, reflectance.
    shared: tuple[float, ...]
    #: None for a hazy target, whose residuals are haze.
    field: ResidualField | None

    @property
    def fits(self) -> tuple[NormalisationFit, ...]:
        """How every date was matched, per band, summed up for people."""
        return summed_up(self.maps, zip(*self.errors, strict=True), self.bands)

    def apply(self, stack: Stack, target: int, *, where: BoolArray | None = None) -> TemporalComposite:
        """Return the composite of a window; a pixel's value depends on its own observations and place alone.

        The time is proportional to the dates, up to the number that is averaged at a pixel.

        Args:
            stack: dates of the window; those that the fit did not see are not used.
            target: index of the date to estimate.
            where: `(y, x)`, pixels that are wanted; all others stay unknown. All when left out.
        """
        composite = empty_composite(stack)
        pixels = np.flatnonzero(np.ones(composite.source.shape, bool) if where is None else where)
        dates = [
            (index, m, weight, stack.dn[index].reshape(len(self.bands), -1), stack.classes[index].ravel())
            for index, m, weight in self._known(stack)
            if index != target
        ]
        shared = np.square(np.array(self.shared, np.float32))
        field = None if self.field is None else self.field.at(stack.cell).reshape(len(self.bands), -1)
        reflectance, spread = (each.reshape(len(self.bands), -1) for each in (composite.reflectance, composite.spread))
        source = composite.source.reshape(-1)
        # So few at once that they stay in the processor's cache while all dates are added.
        for start in range(0, len(pixels), _CHUNK):
            some = pixels[start : start + _CHUNK]
            found = _Average.of(len(self.bands), len(some))
            for index, m, weight, dn, classes in dates:
                seen = is_observed(classes.take(some)) & (found.dates < _MOST_DATES)
                if seen.any():
                    values = m.apply(dn.take(some, axis=1) * np.float32(PRODUCT_SCALE), self.bands)
                    found.add(index, seen, values, weight)
            mean, deviation = found.result(shared)
            if field is not None:
                mean = np.maximum(mean + field.take(some, axis=1), np.float32(1e-4))
            reflectance[:, some], spread[:, some], source[some] = mean, deviation, found.source
        return composite

    def _known(self, stack: Stack) -> list[tuple[int, DateMap, FloatArray]]:
        """Return the dates of a stack that were fitted, the best first: index, map, and weight `(band,)`.

        All residuals hold the target's own noise, so the covariance of the dates is taken as diag(a) + s^2 with one s
        per band. The best linear unbiased estimate (Aitken 1935) then has weights 1 / a: no date's weight depends on
        which others saw a pixel, and none is negative.
        """
        variance = np.square(self.errors)
        own = np.maximum(variance - np.square(self.shared)[:, None], np.maximum(_OWN_SHARE * variance, _LEAST_VARIANCE))
        weights = (1 / own).astype(np.float32).T
        return [
            (stack.item_ids.index(m.item_id), m, weight)
            for m, weight in zip(self.maps, weights, strict=True)
            if m.item_id in stack.item_ids
        ]


@dataclass(slots=True)
class _Average:
    """A weighted mean of dates that come one by one (West 1979); arrays are `(band, pixel)` or `(pixel,)`."""

    mean: FloatArray
    #: Sum of the weights, and of the weighted squares of deviations from the mean.
    weight: FloatArray
    squares: FloatArray
    #: How many dates came.
    dates: NDArray[np.int16]
    #: The first that did, -1 without any.
    source: NDArray[np.int16]

    @classmethod
    def of(cls, bands: int, pixels: int) -> _Average:
        """Return the mean of nothing."""
        mean, weight, squares = np.zeros((3, bands, pixels), np.float32)
        return cls(mean, weight, squares, np.zeros(pixels, np.int16), np.full(pixels, -1, np.int16))

    def add(self, index: int, seen: BoolArray, values: FloatArray, weight: FloatArray) -> None:
        """Add a date where it was seen.

        Args:
            index: of the date.
            seen: `(pixel,)`.
            values: its reflectance `(band, pixel)`, finite also where it was not seen; used up.
            weight: `(band,)`.
        """
        self.source[seen & (self.dates == 0)] = index
        self.dates += seen
        # Where it was not seen its share is 0: everything stays as it is, to the last bit.
        share = weight[:, None] * seen
        self.weight += share
        part = np.maximum(self.weight, _LEAST_WEIGHT)
        np.divide(share, part, out=part)
        change = values - self.mean
        part *= change
        self.mean += part
        change *= share
        values -= self.mean
        change *= values
        self.squares += change

    def result(self, shared: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return mean and standard deviation, NaN where no date came.

        Args:
            shared: variance that all dates have in common `(band,)`.
        """
        if not self.dates.all():
            self.mean[:, self.dates == 0] = self.weight[:, self.dates == 0] = np.nan
        self.squares += 1
        self.squares /= self.weight
        self.squares += shared[:, None]
        return self.mean, np.sqrt(self.squares, out=self.squares)


def fit_fused(overview: Stack, target: int, *, max_days: int | None = None) -> FusedComposite:
    """Learn how every other date is mapped to the target date, and how much each is worth.

    A target with clean clear pixels teaches a full map per date and what is left over as a smooth field. Where its
    clear pixels are hazy, only an offset is learnt, from the cleanest of them. A date counts by how well its map
    agrees with the target: one from the same orbit, near in time and without haze counts most.

    Args:
        overview: all dates of the whole cell, at full resolution or thinned.
        target: index of the date to estimate; its own pixels only steer the match.
        max_days: dates further away are not used.
    """
    overview = _thinned(overview)
    sources = source_dates(overview, target, max_days=max_days)
    observed = is_observed(overview.classes[target])
    hazy = _is_hazy(overview, target, sources)
    clean = observed
    if hazy:
        ground = median_clear(overview, target, max_days=max_days).reflectance
        clean = least_hazy(overview.reflectance(target), ground, observed, overview.bands)
    maps = [_fit(overview, target, source, clean, hazy) for source in sources]
    errors, shared = _errors(overview, target, sources, maps, clean)
    best = np.argsort(np.square(errors).mean(axis=0), kind="stable")
    fitted = FusedComposite(
        overview.bands,
        tuple(maps[date] for date in best),
        tuple(tuple(map(float, band[best])) for band in errors),
        tuple(map(float, shared)),
        None,
    )
    return fitted if hazy or not sources else replace(fitted, field=_field(fitted, overview, target))


def _thinned(stack: Stack) -> Stack:
    factor = overview_factor(stack.cell, _MOST_PIXELS)
    dn, classes = stack.dn[:, :, ::factor, ::factor], stack.classes[:, ::factor, ::factor]
    return replace(stack, dn=dn, classes=classes, cell=stack.cell.thinned(factor))


def _is_hazy(stack: Stack, target: int, sources: Sequence[int]) -> bool:
    """Return whether the target is much hazier than the cleanest other date over the ground that both saw."""
    observed, image = is_observed(stack.classes[target]), stack.reflectance(target)
    spans = []
    for source in sources:
        both = observed & is_observed(stack.classes[source])
        other = haze_span(stack.reflectance(source), both, stack.bands)
        spans.append((other, haze_span(image, both, stack.bands)))
    usable = [pair for pair in spans if pair[0] > 0]
    if not usable:
        return False
    clean, own = min(usable)
    return own > _HAZY * clean


def _fit(stack: Stack, target: int, source: int, clean: BoolArray, hazy: bool) -> DateMap:
    both = clean & is_observed(stack.classes[source])
    there, here = stack.reflectance(source)[:, both], stack.reflectance(target)[:, both]
    return (fit_offset if hazy else fit_map)(stack.item_ids[source], there, here, stack.bands)


def _errors(
    stack: Stack, target: int, sources: Sequence[int], maps: Sequence[DateMap], clean: BoolArray
) -> tuple[Matrix, Matrix]:
    """Return the standard deviation of the residuals of every date `(band, date)`, and of what they share `(band,)`.

    Where several dates saw a pixel, the products of all pairs of their residuals add up to (sum r)^2 - sum r^2: one
    pass over the dates gives the mean covariance of all pairs.
    """
    image = stack.reflectance(target)
    errors = np.full((len(stack.bands), len(sources)), _UNFITTED_SPREAD)
    total, squares, dates = np.zeros_like(image), np.zeros_like(image), np.zeros(clean.shape, np.int32)
    for date, (source, m) in enumerate(zip(sources, maps, strict=True)):
        both = clean & is_observed(stack.classes[source])
        if both.sum() < _PIXELS_FOR_ERROR:
            continue
        residual = clipped(image[:, both] - m.apply(stack.reflectance(source)[:, both], stack.bands))
        errors[:, date] = np.sqrt(np.square(residual).mean(axis=1, dtype=np.float64))
        total[:, both] += residual
        squares[:, both] += np.square(residual)
        dates[both] += 1
    pairs = int((dates * (dates - 1)).sum())
    products = (np.square(total) - squares).sum(axis=(1, 2), dtype=np.float64, where=dates > 1)
    return errors, np.sqrt(np.maximum(products, 0) / max(pairs, 1))


def _field(fitted: FusedComposite, stack: Stack, target: int) -> ResidualField:
    composite = fitted.apply(stack, target)
    where = is_observed(stack.classes[target]) & (composite.source >= 0)
    return fit_field(stack.reflectance(target) - composite.reflectance, where, stack.cell)
