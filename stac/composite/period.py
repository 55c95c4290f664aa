"""The composites of a period: how the clear looks of all its dates, in one radiometry, become one image."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stac.composite.normalisation import NormalisationFit, offsets_at, summed_up
from stac.composite.radiometry import DateFit, Radiometry
from stac.composite.temporal import TemporalComposite, empty_composite, geomedian, median
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_observed
from stac.reflectance import to_reflectance

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Id of the date that a mosaic is in a stack (`mosaic_stack`).
MOSAIC = "mosaic"
#: Variance of perfect agreement: that of rounding.
_LEAST_VARIANCE = 1e-8
#: Pixels composited at once: bounds memory, whatever the number of dates.
_CHUNK = 65_536


@unique
class Method(StrEnum):
    """How the clear looks of a period become one image."""

    #: The reference date bit for bit where it is clear, else the mean of the others, weighted by their agreement.
    BEST = "best"
    MEDIAN = "median"
    #: The spectrum with the least sum of distances to the others (Roberts et al. 2017).
    GEOMEDIAN = "geomedian"
    #: The look that is nearest to the median: a spectrum that was observed.
    MEDOID = "medoid"
    #: A quantile of each band.
    QUANTILE = "quantile"


@dataclass(frozen=True, slots=True)
class PeriodComposite:
    """The composite of a period with the interface of a fitted composite: applied to any window, pixel by pixel."""

    method: Method
    radiometry: Radiometry
    #: Of `Method.QUANTILE`, 0..1.
    quantile: float = 0.5

    @property
    def fits(self) -> tuple[NormalisationFit, ...]:
        """How every date was matched, per band, summed up for people."""
        dates = self.radiometry.dates
        return summed_up([fit.map for fit in dates], [fit.error for fit in dates], self.radiometry.bands)

    def apply(self, stack: Stack, target: int, *, where: BoolArray | None = None) -> TemporalComposite:
        """Return the composite of a window.

        Args:
            stack: dates of the window; those without a fit are not used.
            target: index of the date that is the mosaic itself (`mosaic_stack`).
            where: `(y, x)`, pixels that are wanted; all others stay unknown. All when left out.
        """
        composite = empty_composite(stack)
        fits = {fit.date_id: fit for fit in self.radiometry.dates}
        dates = [i for i, n in enumerate(stack.item_ids) if n in fits and i != target]
        rows, columns = np.nonzero(np.ones(composite.source.shape, bool) if where is None else where)
        if not dates or not len(rows):
            return composite
        used = [fits[stack.item_ids[i]] for i in dates]
        weights = 1 / np.maximum(np.square([fit.error for fit in used]), _LEAST_VARIANCE)
        level = np.array(self.radiometry.level, np.float32)[:, None]
        crs = self.radiometry.crs
        offsets = [tuple(offsets_at(each, crs, stack.cell) for each in (fit.view, fit.field)) for fit in used]
        for start in range(0, len(rows), _CHUNK):
            at = rows[start : start + _CHUNK], columns[start : start + _CHUNK]
            values = self._values(stack, dates, used, offsets, at)
            mean, spread, source = self._composite(values, weights.astype(np.float32))
            if self.method is not Method.BEST:
                mean = np.maximum(mean + level, np.float32(1e-4))
            composite.reflectance[:, *at], composite.spread[:, *at] = mean, spread
            composite.source[at] = np.where(source >= 0, np.array(dates, np.int16)[source], -1)
        return composite

    def _values(
        self,
        stack: Stack,
        dates: list[int],
        used: list[DateFit],
        offsets: list[tuple[FloatArray | None, ...]],
        at: tuple[NDArray[np.intp], NDArray[np.intp]],
    ) -> FloatArray:
        """Return the clear looks `(date, band, pixel)` in the shared radiometry, NaN where a date is not clear."""
        values = np.full((len(dates), len(stack.bands), len(at[0])), np.nan, np.float32)
        for looks, date, fit, of_window in zip(values, dates, used, offsets, strict=True):
            seen = np.flatnonzero(is_observed(stack.classes[date][at]))
            here = at[0][seen], at[1][seen]
            view, field = (None if image is None else image[:, *here] for image in of_window)
            looks[:, seen] = fit.apply(to_reflectance(stack.dn[date][:, *here]), stack.bands, view, field)
        return values

    def _composite(self, values: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray, NDArray[np.intp]]:
        """Return value and standard deviation `(band, pixel)`, and the position of the date that comes nearest.

        Args:
            values: looks `(date, band, pixel)`, NaN where there is none.
            weights: `(date, band)`.
        """
        seen: BoolArray = np.asarray(np.isfinite(values).all(axis=1), np.bool_)
        some: BoolArray = np.asarray(seen.any(axis=0), np.bool_)
        found = np.full(values.shape[1:], np.nan, np.float32)
        spread, source = found.copy(), np.full(len(some), -1, np.intp)
        looks = values[:, :, some]
        if not looks.size:
            return found, spread, source
        middle = self._middle(looks, seen[:, some], weights)
        deviation = looks - middle
        distance = np.where(seen[:, some], np.square(deviation).sum(axis=1), np.inf)
        nearest = distance.argmin(axis=0)
        if self.method is Method.MEDOID:
            middle = np.take_along_axis(looks, nearest[None, None], axis=0)[0]
            deviation = looks - middle
        share = np.where(seen[:, None, some], weights[:, :, None], 0)
        total = share.sum(axis=0)
        variance = (share * np.square(np.nan_to_num(deviation))).sum(axis=0) / total
        found[:, some], source[some] = middle, nearest
        spread[:, some] = np.sqrt(variance + 1 / total)
        return found, spread, source

    def _middle(self, looks: FloatArray, seen: BoolArray, weights: FloatArray) -> FloatArray:
        """Return the composite `(band, pixel)` of looks `(date, band, pixel)` of which each pixel has one at least."""
        match self.method:
            case Method.BEST:
                share = np.where(seen[:, None], weights[:, :, None], 0)
                mean: FloatArray = (share * np.nan_to_num(looks)).sum(axis=0) / share.sum(axis=0)
                return mean
            case Method.GEOMEDIAN:
                return geomedian(looks)
            case Method.QUANTILE:
                quantile: FloatArray = np.nanquantile(looks, self.quantile, axis=0).astype(np.float32)
                return quantile
            case _:
                return median(looks)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"method": str(self.method), "quantile": self.quantile, "radiometry": self.radiometry.to_dict()}


def mosaic_stack(stack: Stack, reference: str, method: Method) -> Stack:
    """Return a stack whose first date is the mosaic that is to be made: what is to be filled counts as hidden.

    With `Method.BEST` the mosaic begins as the reference date, which leaves the others. Pixels that no date has data
    for stay nodata; those that lie outside the reference's swath are filled from other dates.

    Args:
        stack: all dates of a window.
        reference: id of the reference date, which need not see the window.
        method: how looks become one image.
    """
    known = (stack.classes != PixelClass.NODATA).any(axis=0)
    classes = np.where(known, PixelClass.DEFECTIVE, PixelClass.NODATA).astype(np.uint8)
    dn, day, others = np.zeros_like(stack.dn[0]), int(stack.days[0]), list(range(len(stack.days)))
    if reference in stack.item_ids:
        index = stack.item_ids.index(reference)
        own, day = stack.classes[index], int(stack.days[index])
        dn = stack.dn[index].copy()
        keep = own != PixelClass.NODATA
        if method is Method.BEST:
            others.remove(index)
        else:
            keep &= ~is_observed(stack.classes).any(axis=0)
        classes[keep] = own[keep]
    return Stack(
        dn=np.concatenate([dn[None], stack.dn[others]]),
        classes=np.concatenate([classes[None], stack.classes[others]]),
        item_ids=(MOSAIC, *(stack.item_ids[i] for i in others)),
        days=np.array([day, *stack.days[others]], np.int32),
        bands=stack.bands,
        cell=stack.cell,
        dropped=stack.dropped,
        sources=((MOSAIC,), *(stack.sources[i] for i in others)),
    )


def clear_looks(stack: Stack) -> NDArray[np.uint8]:
    """Return how many dates saw each pixel clear `(y, x)`, 254 at most; the mosaic itself counts as its reference."""
    # 255 is the layer's nodata.
    count: NDArray[np.uint8] = is_observed(stack.classes).sum(axis=0).clip(0, 254).astype(np.uint8)
    return count
