"""Temporal priors: what other dates saw where the target date is hidden, matched to the target date."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stac.masks.classes import is_observed
from stac.stack import Stack

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Pixels needed to fit slope and offset, and to fit the offset alone.
_PIXELS_FOR_LINE, _PIXELS_FOR_OFFSET = 500, 50
_SLOPES = (0.5, 2.0)
#: Residuals beyond this many robust standard deviations are left out of the next iteration (changed
#: ground, missed cloud).
_TRIM, _ITERATIONS = 2.5, 4
#: Spread given to a donor that nothing could be fitted to, reflectance: honest ignorance.
_UNFITTED_SPREAD = 0.05


@dataclass(frozen=True, slots=True)
class HarmonisationFit:
    """Target = slope * donor + intercept, in reflectance, for one band of one donor."""

    item_id: str
    band: str
    slope: float
    intercept: float
    #: Standard deviation of all residuals (untrimmed), reflectance.
    residual_std: float
    #: Pixels seen on both dates.
    n_pixels: int


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


def donors_of(
    stack: Stack, target: int, *, max_days: int | None = None, exclude: Collection[int] = ()
) -> list[int]:
    """Return the other dates, best first: fewest days away, then later, then by id."""
    gap = np.abs(stack.days - stack.days[target])
    allowed = [
        i for i in range(len(stack.item_ids))
        if i != target and i not in exclude and (max_days is None or gap[i] <= max_days)
    ]  # fmt: skip
    return sorted(allowed, key=lambda i: (gap[i], -stack.days[i], stack.item_ids[i]))


def harmonisation_fits(stack: Stack, target: int, donor: int) -> tuple[HarmonisationFit, ...]:
    """Fit every band of a donor date to the target date on the pixels that both dates saw.

    Obscured pixels of either date are never used.
    """
    both = is_observed(stack.classes[target]) & is_observed(stack.classes[donor])
    seen_there, seen_here = stack.reflectance(donor)[:, both], stack.reflectance(target)[:, both]
    return tuple(
        _fit(stack.item_ids[donor], band, x.astype(np.float64), y.astype(np.float64))
        for band, x, y in zip(stack.bands, seen_there, seen_here, strict=True)
    )


def _fit(item_id: str, band: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> HarmonisationFit:
    """Fit a line by trimmed least squares; fall back to an offset, then to nothing."""
    slope, intercept, spread = 1.0, 0.0, _UNFITTED_SPREAD
    if len(x) >= _PIXELS_FOR_OFFSET:
        intercept = float(np.median(y - x))
    if len(x) >= _PIXELS_FOR_LINE and x.std() > 1e-6:
        candidate = _trimmed_line(x, y)
        if _SLOPES[0] <= candidate[0] <= _SLOPES[1]:
            slope, intercept = candidate
    if len(x) >= _PIXELS_FOR_OFFSET:
        spread = float((y - slope * x - intercept).std())
    return HarmonisationFit(item_id, band, slope, intercept, spread, len(x))


def _trimmed_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    keep = np.ones(len(x), dtype=bool)
    slope, intercept = 1.0, 0.0
    for _ in range(_ITERATIONS):
        mean_x, mean_y = x[keep].mean(), y[keep].mean()
        variance = np.square(x[keep] - mean_x).mean()
        if variance <= 0:
            break
        slope = float(((x[keep] - mean_x) * (y[keep] - mean_y)).mean() / variance)
        intercept = float(mean_y - slope * mean_x)
        residual = y - slope * x - intercept
        centre = np.median(residual)
        robust = 1.4826 * np.median(np.abs(residual - centre))
        keep = np.abs(residual - centre) <= _TRIM * max(robust, 1e-6)
    return slope, intercept


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

    `source` is the nearest date among those; `spread` the standard deviation over them.
    """
    prior, spread, source, _ = _empty(stack)
    donors = donors_of(stack, target, max_days=max_days, exclude=exclude)
    if donors:
        seen = np.stack([is_observed(stack.classes[d]) for d in donors])
        values = np.stack([stack.reflectance(d) for d in donors])
        values[~np.broadcast_to(seen[:, None], values.shape)] = np.nan
        some = seen.any(axis=0)
        prior[:, some] = np.nanmedian(values[..., some], axis=0)
        spread[:, some] = np.nanstd(values[..., some], axis=0)
        source[some] = np.array(donors, np.int16)[seen.argmax(axis=0)[some]]
    return TemporalPrior(prior, source, spread, ())


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
