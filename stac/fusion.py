"""The fused prior: every date as it would look on the target date, averaged by how well each one agrees with it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stac.composite import TemporalPrior, donors_of, empty_prior, median_clear
from stac.donor_map import DonorMap, fit_map, fit_offset
from stac.harmonisation import HarmonisationFit
from stac.haze import haze_span, least_hazy
from stac.masks.classes import is_observed
from stac.reflectance import to_reflectance
from stac.residual_field import ResidualField, fit_field
from stac.stack import Stack

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Matrix = NDArray[np.float64]

#: A target is hazy when its haze index spans this much more than the cleanest other date's over the same ground.
_HAZY = 2.2
#: Pixels of an overview that are looked at: more teach nothing new.
_MOST_PIXELS = 500_000
#: Shared pixels needed for a covariance; standard deviation of a date that shares fewer, reflectance.
_PIXELS_FOR_COVARIANCE, _UNFITTED_SPREAD = 200, 0.05
#: Residuals count at most as this many robust standard deviations.
_CUT = 6.0


@dataclass(frozen=True, slots=True)
class FusedPrior:
    """What the fused prior learns once about a whole cell; it is then applied to any window, pixel by pixel."""

    bands: tuple[str, ...]
    maps: tuple[DonorMap, ...]
    #: Covariance of the dates' residuals `[band][date][date]`, squared reflectance, dates as in `maps`.
    covariance: tuple[tuple[tuple[float, ...], ...], ...]
    #: None for a hazy target, whose residuals are haze.
    field: ResidualField | None

    @property
    def fits(self) -> tuple[HarmonisationFit, ...]:
        """How every date was matched, per band, summed up for people."""
        return tuple(
            HarmonisationFit(m.item_id, band, 1.0, m.shift[b], math.sqrt(self.covariance[b][d][d]), m.n_pixels)
            for d, m in enumerate(self.maps)
            for b, band in enumerate(self.bands)
        )

    def apply(
        self, stack: Stack, target: int, *, exclude: Collection[int] = (), where: BoolArray | None = None
    ) -> TemporalPrior:
        """Return the prior of a window; a pixel's value depends on its own observations and place alone.

        Args:
            stack: dates of the window; those that the fit did not see are not used.
            target: index of the date to estimate.
            exclude: indices that are not used.
            where: `(y, x)`, pixels that are wanted; all others stay unknown. All when left out.
        """
        prior = empty_prior(stack)
        known = [d for d in self._known(stack) if d[0] not in exclude and d[0] != target]
        wanted = np.ones(prior.source.shape, bool) if where is None else where
        if not known or not wanted.any():
            return prior
        indices = [index for index, _ in known]
        seen = np.stack([is_observed(stack.classes[index][wanted]) for index in indices])
        images = np.stack([m.apply(to_reflectance(stack.dn[index][:, wanted]), self.bands) for index, m in known])
        places = [self.maps.index(m) for _, m in known]
        mean, spread, source = _average(images, seen, np.array(self.covariance)[:, places][:, :, places])
        if self.field is not None:
            mean = np.maximum(mean + self.field.at(stack.cell)[:, wanted], np.float32(1e-4))
        prior.reflectance[:, wanted], prior.spread[:, wanted] = mean, spread
        prior.source[wanted] = np.array([*indices, -1], np.int16)[source]
        return prior

    def _known(self, stack: Stack) -> list[tuple[int, DonorMap]]:
        return [(stack.item_ids.index(m.item_id), m) for m in self.maps if m.item_id in stack.item_ids]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "bands": list(self.bands),
            "maps": [m.to_dict() for m in self.maps],
            "covariance": self.covariance,
            "field": None if self.field is None else self.field.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FusedPrior:
        """Read `to_dict` back."""
        covariance = tuple(tuple(tuple(map(float, row)) for row in band) for band in values["covariance"])
        field = None if values["field"] is None else ResidualField.from_dict(values["field"])
        maps = tuple(DonorMap.from_dict(m) for m in values["maps"])
        return cls(tuple(values["bands"]), maps, covariance, field)


def fit_fused(
    overview: Stack, target: int, *, max_days: int | None = None, exclude: Collection[int] = ()
) -> FusedPrior:
    """Learn how every other date is mapped to the target date, and how much each is worth.

    A target with clean clear pixels teaches a full map per date and what is left over as a smooth field. Where its
    clear pixels are hazy, only an offset is learnt, from the cleanest of them. Dates are averaged with the weights of
    the best linear unbiased estimate (Aitken 1935), from the covariance of their residuals: a date from the same
    orbit, near in time and without haze agrees best and counts most.

    Args:
        overview: all dates of the whole cell, at full resolution or thinned.
        target: index of the date to estimate; its own pixels only steer the match.
        max_days: dates further away are not used.
        exclude: indices that are not used.
    """
    overview = _thinned(overview)
    donors = donors_of(overview, target, max_days=max_days, exclude=exclude)
    observed = is_observed(overview.classes[target])
    hazy = _is_hazy(overview, target, donors)
    clean = observed
    if hazy:
        ground = median_clear(overview, target, max_days=max_days, exclude=exclude).reflectance
        clean = least_hazy(overview.reflectance(target), ground, observed, overview.bands)
    maps = tuple(_fit(overview, target, donor, clean, hazy) for donor in donors)
    covariance = _covariances(overview, target, donors, maps, clean)
    fitted = FusedPrior(overview.bands, maps, covariance, None)
    return fitted if hazy or not donors else replace(fitted, field=_field(fitted, overview, target))


def _thinned(stack: Stack) -> Stack:
    factor = 1
    while stack.cell.pixels > _MOST_PIXELS * factor**2:
        factor += 1
    if factor == 1:
        return stack
    dn, classes = stack.dn[:, :, ::factor, ::factor], stack.classes[:, ::factor, ::factor]
    return replace(stack, dn=dn, classes=classes, cell=stack.cell.thinned(factor))


def _is_hazy(stack: Stack, target: int, donors: Sequence[int]) -> bool:
    """Tell whether the target is much hazier than the cleanest other date over the ground that both saw."""
    observed, image = is_observed(stack.classes[target]), stack.reflectance(target)
    spans = []
    for donor in donors:
        both = observed & is_observed(stack.classes[donor])
        other = haze_span(stack.reflectance(donor), both, stack.bands)
        spans.append((other, haze_span(image, both, stack.bands)))
    usable = [pair for pair in spans if pair[0] > 0]
    if not usable:
        return False
    clean, own = min(usable)
    return own > _HAZY * clean


def _fit(stack: Stack, target: int, donor: int, clean: BoolArray, hazy: bool) -> DonorMap:
    both = clean & is_observed(stack.classes[donor])
    there, here = stack.reflectance(donor)[:, both], stack.reflectance(target)[:, both]
    return (fit_offset if hazy else fit_map)(stack.item_ids[donor], there, here, stack.bands)


def _covariances(
    stack: Stack, target: int, donors: Sequence[int], maps: Sequence[DonorMap], clean: BoolArray
) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """Return the covariance of the residuals of all dates per band, each pair on the pixels that both saw."""
    image = stack.reflectance(target)
    covariance = np.tile(np.eye(len(donors)) * _UNFITTED_SPREAD**2, (len(stack.bands), 1, 1))
    seen = [clean & is_observed(stack.classes[donor]) for donor in donors]
    residuals = [image - m.apply(stack.reflectance(d), stack.bands) for d, m in zip(donors, maps, strict=True)]
    for one in range(len(donors)):
        for other in range(one + 1):
            both = seen[one] & seen[other]
            if both.sum() >= _PIXELS_FOR_COVARIANCE:
                product = _cut(residuals[one][:, both]) * _cut(residuals[other][:, both])
                covariance[:, one, other] = covariance[:, other, one] = product.mean(axis=1, dtype=np.float64)
    return tuple(tuple(tuple(map(float, row)) for row in band) for band in covariance)


def _cut(residual: FloatArray) -> FloatArray:
    limit = np.maximum(_CUT * 1.4826 * np.median(np.abs(residual), axis=1, keepdims=True), 1e-4)
    cut: FloatArray = residual.clip(-limit, limit)
    return cut


def _field(fitted: FusedPrior, stack: Stack, target: int) -> ResidualField:
    prior = fitted.apply(stack, target)
    where = is_observed(stack.classes[target]) & (prior.source >= 0)
    return fit_field(stack.reflectance(target) - prior.reflectance, where, stack.cell)


def _average(
    images: FloatArray, seen: BoolArray, covariance: Matrix
) -> tuple[FloatArray, FloatArray, NDArray[np.intp]]:
    """Return mean and spread `(band, pixel)`, NaN where no date saw a pixel, and the date of most weight, else -1.

    Args:
        images: matched dates `(date, band, pixel)`.
        seen: `(date, pixel)`.
        covariance: `(band, date, date)`.
    """
    mean = np.full(images.shape[1:], np.nan, np.float32)
    spread, source = mean.copy(), np.full(seen.shape[1], -1)
    for pixels in _alike(seen):
        dates = np.flatnonzero(seen[:, pixels[0]])
        if not len(dates):
            continue
        weight, variance = best_weights(covariance[:, dates][:, :, dates])
        source[pixels] = dates[int(weight.sum(axis=0).argmax())]
        for band in range(len(mean)):
            values = np.stack([images[date, band].take(pixels) for date in dates])
            average = _weighted(values, weight[band])
            apart = _weighted(np.square(values - average), weight[band])
            mean[band, pixels], spread[band, pixels] = average, np.sqrt(apart + np.float32(variance[band]))
    return mean, spread, source


def _alike(seen: BoolArray) -> list[NDArray[np.intp]]:
    """Return the pixels of every pattern of which dates saw them, `seen` being `(date, pixel)`, in rising order."""
    code = np.zeros(seen.shape[1], np.intp)
    # Numbered anew after every date there are never more numbers than patterns; counting them needs no sorting.
    for date in seen:
        code = 2 * code + date
        present = np.bincount(code) > 0
        code = (np.cumsum(present) - 1)[code]
    sizes = np.bincount(code)
    # Sixteen bits are sorted digit by digit, in time that is proportional to the pixels.
    order = np.argsort(code.astype(np.uint16) if len(sizes) < 2**16 else code, kind="stable")
    return np.split(order, np.cumsum(sizes)[:-1])


def _weighted(values: FloatArray, weight: Matrix) -> FloatArray:
    """Return the weighted sum over the first axis, in a fixed order."""
    total: FloatArray = np.zeros_like(values[0])
    for value, share in zip(values, weight, strict=True):
        total += np.float32(share) * value
    return total


def best_weights(covariance: Matrix) -> tuple[Matrix, Matrix]:
    """Return the weights `(band, date)`, 0 or more with sum 1, of least variance, and that variance `(band,)`.

    Weights are C^-1 1 / (1' C^-1 1); dates whose weight would be negative are left out, worst first.
    """
    bands, dates = covariance.shape[:2]
    weights, variances = np.zeros((bands, dates)), np.zeros(bands)
    for band in range(bands):
        kept = list(range(dates))
        while True:
            part = covariance[band][np.ix_(kept, kept)] + 1e-7 * np.eye(len(kept))
            # Covariances of different pixels need not be positive definite together.
            raw = np.linalg.lstsq(part, np.ones(len(kept)), rcond=None)[0]
            weight = raw / raw.sum()
            if len(kept) == 1 or (weight >= 0).all():
                break
            del kept[int(weight.argmin())]
        weights[band, kept] = weight
        variances[band] = max(float(weight @ part @ weight), 1e-7)
    return weights, variances
