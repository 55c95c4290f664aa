"""One radiometry for all dates of a region and period, and the composites that are made in it.

Every date is mapped to the radiometry of one reference date, once for the whole region: a pixel then depends on its own
observations and place alone, so no seam shows between cells, tiles and orbits. A map depends on its own date and the
reference only, so that a late scene changes no other date's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum, unique
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from stac.composite.normalisation import (
    DateMap,
    NormalisationFit,
    ResidualField,
    clipped,
    fit_field,
    fit_map,
    fit_offset,
    repeatability,
    summed_up,
)
from stac.composite.temporal import TemporalComposite, empty_composite, geomedian, median
from stac.errors import InvalidInput
from stac.grid.cell import Cell
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_observed
from stac.reflectance import to_reflectance

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Id of the date that a mosaic is in a stack (`mosaic_stack`).
MOSAIC = "mosaic"
#: A date that sees this share of what the clearest date sees may be the reference.
_NEARLY = 0.95
#: Shared pixels from which a date is fitted to the reference itself, and standard deviation of one that shares fewer
#: with any other date, reflectance.
_SHARED, _UNFITTED_SPREAD = 300, 0.05
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
class DateFit:
    """How one date becomes the radiometry of the reference."""

    date_id: str
    map: DateMap
    #: Standard deviation of what is left over, per band, reflectance.
    error: tuple[float, ...]
    #: What is left over, smoothed; None where nothing was shared.
    field: ResidualField | None = None
    #: What a view from straight above adds, as a share (`stac.composite.view_angle`); None leaves the view as it is.
    view: ResidualField | None = None


@dataclass(frozen=True, slots=True)
class Radiometry:
    """How all dates of a region and period become one radiometry."""

    bands: tuple[str, ...]
    #: Id of the date whose radiometry it is.
    reference: str
    #: EPSG code or definition of the projection that fields are in.
    crs: str
    dates: tuple[DateFit, ...]
    #: How much brighter than the reference the dates are, per band, reflectance: the mean, each weighted by what it
    #: sees clear. A composite of all looks is of this level, so that it does not inherit the light of one day.
    level: tuple[float, ...]

    def of(self, date_ids: Collection[str]) -> Radiometry:
        """Return what concerns some dates."""
        return replace(self, dates=tuple(fit for fit in self.dates if fit.date_id in date_ids))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Radiometry:
        """Read `to_dict` back.

        Raises:
            InvalidInput: the values are no radiometry.
        """
        try:
            dates = tuple(_date_fit(each) for each in values["dates"])
            level = tuple(map(float, values["level"]))
            return cls(tuple(values["bands"]), str(values["reference"]), str(values["crs"]), dates, level)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"These values are no radiometry of a region ({error}); fit it again.") from error


def _date_fit(values: Mapping[str, Any]) -> DateFit:
    field, view = (
        None if values[name] is None else ResidualField.from_dict(values[name]) for name in ("field", "view")
    )
    error = tuple(map(float, values["error"]))
    return DateFit(str(values["date_id"]), DateMap.from_dict(values["map"]), error, field, view)


def choose_reference(overview: Stack) -> str:
    """Return the id of the date that the others are mapped to: of the clearest ones the least hazy.

    Args:
        overview: all dates of the region, thinned.
    """
    clear = is_observed(overview.classes)
    counts = clear.sum(axis=(1, 2))
    blue = overview.bands.index("blue") if "blue" in overview.bands else 0

    def brightness(index: int) -> float:
        return float(np.median(overview.dn[index, blue][clear[index]])) if counts[index] else np.inf

    able = [i for i in range(len(counts)) if counts[i] >= _NEARLY * counts.max()]
    return overview.item_ids[min(able, key=lambda i: (brightness(i), overview.item_ids[i]))]


def fit_radiometry(
    overview: Stack, known: Radiometry | None = None, views: Mapping[str, ResidualField] | None = None
) -> Radiometry:
    """Fit every date of a region to its reference.

    Dates that share too little with the reference, such as those of another orbit, are fitted to the mean of those that
    were fitted before; the ones that share most come first.

    Args:
        overview: all dates of the region, thinned.
        known: an earlier radiometry of the same region and period. Its reference, level and fits stay as they are.
        views: what a view from straight above adds to dates, by id (`towards_nadir`); the others stay as they are.
    """
    fits = {fit.date_id: fit for fit in known.dates} if known is not None else {}
    reference = known.reference if known is not None else choose_reference(overview)
    crs, clear = str(overview.cell.geobox.crs), is_observed(overview.classes)
    if known is not None and crs != known.crs:
        raise InvalidInput(f"The radiometry is in {known.crs}, the overview in {crs}; fit it again.")
    corrections = {name: fit.view for name, fit in fits.items()} | dict(views or {})

    def look(date: int) -> FloatArray:
        return _from_above(overview.reflectance(date), corrections.get(overview.item_ids[date]), crs, overview.cell)

    def fit(date: int, wanted: FloatArray, where: BoolArray, is_reference: bool) -> DateFit:
        found = _fit(overview, date, look(date), wanted, where, is_reference)
        return replace(found, view=corrections.get(overview.item_ids[date]))

    new = [i for i, name in enumerate(overview.item_ids) if name not in fits]
    if reference in overview.item_ids:
        at = overview.item_ids.index(reference)
        direct = [i for i in new if i == at or (clear[i] & clear[at]).sum() >= _SHARED]
        fits |= {overview.item_ids[i]: fit(i, look(at), clear[at], i == at) for i in direct}
    mean = _Mean.of(overview)
    for i, name in enumerate(overview.item_ids):
        if name in fits:
            mean.add(_normalised(look(i), fits[name], overview, crs), clear[i])
    rest = [i for i in new if overview.item_ids[i] not in fits]
    while rest:
        i = max(rest, key=lambda i: (int((clear[i] & mean.known).sum()), -i))
        fits[overview.item_ids[i]] = fit(i, mean.image, mean.known, False)
        mean.add(_normalised(look(i), fits[overview.item_ids[i]], overview, crs), clear[i])
        rest.remove(i)
    level = known.level if known is not None else _level(overview, fits)
    return Radiometry(overview.bands, reference, crs, tuple(fit for _, fit in sorted(fits.items())), level)


def _level(overview: Stack, fits: Mapping[str, DateFit]) -> tuple[float, ...]:
    """Return how much brighter than the reference the dates are, per band, weighted by what each sees clear."""
    clear = is_observed(overview.classes).sum(axis=(1, 2)).astype(np.float64)
    shifts = np.array([fits[name].map.shift for name in overview.item_ids])
    return tuple(map(float, -(clear @ shifts) / max(clear.sum(), 1)))


@dataclass(frozen=True, slots=True)
class _Mean:
    """A mean of dates of one radiometry."""

    total: FloatArray
    count: NDArray[np.int32]

    @classmethod
    def of(cls, overview: Stack) -> _Mean:
        shape = overview.dn.shape[1:]
        return cls(np.zeros(shape, np.float32), np.zeros(shape[1:], np.int32))

    def add(self, image: FloatArray, where: BoolArray) -> None:
        """Add an image `(band, y, x)` where it is clear `(y, x)`."""
        self.total[:, where] += image[:, where]
        self.count[where] += 1

    @property
    def known(self) -> BoolArray:
        """Where a date was added."""
        known: BoolArray = self.count > 0
        return known

    @property
    def image(self) -> FloatArray:
        """The mean `(band, y, x)`, 0 where unknown."""
        mean: FloatArray = np.divide(self.total, np.maximum(self.count, 1), dtype=np.float32)
        return mean


def _fit(
    overview: Stack, date: int, image: FloatArray, wanted: FloatArray, known: BoolArray, is_reference: bool
) -> DateFit:
    """Fit the look of a date to an image that is known at some pixels `(y, x)`; both are `(band, y, x)`."""
    name = overview.item_ids[date]
    both = known & is_observed(overview.classes[date])
    pixels = int(both.sum())
    if is_reference or pixels < _SHARED:
        nothing = np.zeros((len(overview.bands), 0), np.float32)
        usual = repeatability(np.nanmedian(image[:, both], axis=1)) if pixels else np.full(len(image), np.nan)
        error = usual if is_reference else np.full(len(image), _UNFITTED_SPREAD)
        error = np.where(np.isfinite(error), error, _UNFITTED_SPREAD)
        return DateFit(name, fit_offset(name, nothing, nothing, overview.bands), tuple(map(float, error)))
    found = fit_map(name, image[:, both], wanted[:, both], overview.bands)
    residual = wanted - found.apply(image, overview.bands)
    field = fit_field(np.where(both, residual, 0).astype(np.float32), both, overview.cell)
    left = clipped(residual[:, both] - field.at(overview.cell)[:, both])
    error = np.sqrt(np.square(left).mean(axis=1, dtype=np.float64))
    return DateFit(name, found, tuple(map(float, error)), field)


def _normalised(image: FloatArray, fit: DateFit, stack: Stack, crs: str) -> FloatArray:
    """Return a date's reflectance `(band, y, x)` in the radiometry of the reference; NaN stays NaN."""
    mapped = fit.map.apply(image, stack.bands)
    if fit.field is None:
        return mapped
    smoothed: FloatArray = np.maximum(mapped + offsets_at(fit.field, crs, stack.cell), np.float32(1e-4))
    return smoothed


def _from_above(image: FloatArray, view: ResidualField | None, crs: str, cell: Cell) -> FloatArray:
    """Return reflectance `(band, y, x)` of a window as it would be seen from straight above."""
    return image if view is None else image * (1 + offsets_at(view, crs, cell))


def offsets_at(field: ResidualField, crs: str, cell: Cell) -> FloatArray:
    """Return the offsets of a window's pixels `(band, y, x)`, whatever the projection of the window.

    Args:
        field: offsets on a coarse grid of nodes.
        crs: the projection of the nodes.
        cell: the window.
    """
    if str(cell.geobox.crs) == crs:
        return field.at(cell)
    height, width = cell.geobox.shape
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x, y = cell.geobox.crs.transformer_to_crs(crs)(*(cell.geobox.affine @ (columns, rows)))
    nodes = np.array(field.offsets, np.float32)
    places = [(y - field.first[1]) / field.step[1], (x - field.first[0]) / field.step[0]]
    found: FloatArray = np.stack([map_coordinates(band, places, order=1, mode="nearest") for band in nodes])
    return found


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
        fields = {i: self._offsets(fit.field, stack.cell) for i, fit in zip(dates, used, strict=True)}
        views = {i: self._offsets(fit.view, stack.cell) for i, fit in zip(dates, used, strict=True)}
        for start in range(0, len(rows), _CHUNK):
            at = rows[start : start + _CHUNK], columns[start : start + _CHUNK]
            values = self._values(stack, dates, used, fields, views, at)
            mean, spread, source = self._composite(values, weights.astype(np.float32))
            if self.method is not Method.BEST:
                mean = np.maximum(mean + level, np.float32(1e-4))
            composite.reflectance[:, *at], composite.spread[:, *at] = mean, spread
            composite.source[at] = np.where(source >= 0, np.array(dates, np.int16)[source], -1)
        return composite

    def _offsets(self, field: ResidualField | None, cell: Cell) -> FloatArray | None:
        return None if field is None else offsets_at(field, self.radiometry.crs, cell)

    def _values(
        self,
        stack: Stack,
        dates: list[int],
        used: list[DateFit],
        fields: Mapping[int, FloatArray | None],
        views: Mapping[int, FloatArray | None],
        at: tuple[NDArray[np.intp], NDArray[np.intp]],
    ) -> FloatArray:
        """Return the clear looks `(date, band, pixel)` in the shared radiometry, NaN where a date is not clear."""
        values = np.full((len(dates), len(stack.bands), len(at[0])), np.nan, np.float32)
        for position, (date, fit) in enumerate(zip(dates, used, strict=True)):
            seen = np.flatnonzero(is_observed(stack.classes[date][at]))
            here = at[0][seen], at[1][seen]
            look, view, offsets = to_reflectance(stack.dn[date][:, *here]), views[date], fields[date]
            mapped = fit.map.apply(look if view is None else look * (1 + view[:, *here]), stack.bands)
            if offsets is not None:
                mapped = np.maximum(mapped + offsets[:, *here], np.float32(1e-4))
            values[position][:, seen] = mapped
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
    """Return how many dates saw each pixel clear `(y, x)`, 255 at most; the mosaic itself counts as its reference."""
    count: NDArray[np.uint8] = is_observed(stack.classes).sum(axis=0).clip(0, 255).astype(np.uint8)
    return count
