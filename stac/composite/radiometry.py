"""One radiometry for all dates of a region and period.

Every date is mapped to the radiometry of one reference date, once for the whole region: a pixel then depends on its own
observations and place alone, so no seam shows between cells, tiles and orbits. A map depends on its own date and the
reference only, so that a late scene changes no other date's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from stac.composite.normalisation import (
    DateMap,
    ResidualField,
    clipped,
    fit_field,
    fit_map,
    fit_offset,
    offsets_at,
    repeatability,
)
from stac.errors import InvalidInput
from stac.load.stack import Stack
from stac.masks.classes import is_observed

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: A date that sees this share of what the clearest date sees may be the reference.
_NEARLY = 0.95
#: Shared pixels from which a date is fitted to the reference itself, and standard deviation of one that shares fewer
#: with any other date, reflectance.
_SHARED, _UNFITTED_SPREAD = 300, 0.05


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

    def apply(
        self, image: FloatArray, bands: tuple[str, ...], view: FloatArray | None, field: FloatArray | None
    ) -> FloatArray:
        """Return reflectance of the date `(band, ...)` in the radiometry of the reference; NaN stays NaN.

        Args:
            image: as it was seen.
            bands: common names in channel order.
            view: what a view from straight above adds at its pixels, as a share; None adds nothing.
            field: what is left over at its pixels; None is nothing.
        """
        mapped = self.map.apply(image if view is None else image * (1 + view), bands)
        return mapped if field is None else np.maximum(mapped + field, np.float32(1e-4))


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
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise InvalidInput(f"These values are not the radiometry of a region ({reason}); fit it again.") from error


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
        view = offsets_at(corrections.get(overview.item_ids[date]), crs, overview.cell)
        return overview.reflectance(date) if view is None else overview.reflectance(date) * (1 + view)

    def fit(date: int, wanted: FloatArray, where: BoolArray, is_reference: bool) -> DateFit:
        found = _fit(overview, date, look(date), wanted, where, is_reference)
        return replace(found, view=corrections.get(overview.item_ids[date]))

    def normalised(date: int) -> FloatArray:
        fit = fits[overview.item_ids[date]]
        return fit.apply(look(date), overview.bands, None, offsets_at(fit.field, crs, overview.cell))

    new = [i for i, name in enumerate(overview.item_ids) if name not in fits]
    if reference in overview.item_ids:
        at = overview.item_ids.index(reference)
        direct = [i for i in new if i == at or (clear[i] & clear[at]).sum() >= _SHARED]
        fits |= {overview.item_ids[i]: fit(i, look(at), clear[at], i == at) for i in direct}
    mean = _Mean.of(overview)
    for i, name in enumerate(overview.item_ids):
        if name in fits:
            mean.add(normalised(i), clear[i])
    rest = [i for i in new if overview.item_ids[i] not in fits]
    while rest:
        i = max(rest, key=lambda i: (int((clear[i] & mean.known).sum()), -i))
        fits[overview.item_ids[i]] = fit(i, mean.image, mean.known, False)
        mean.add(normalised(i), clear[i])
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
