"""Mosaics of a region and a period: cells, dates, the radiometry they share, and ids that follow from the inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pystac

from flows.planning.candidates import CellDates, Refused, cells_with_dates
from flows.planning.periods import Period, periods_of
from flows.planning.region import Region, overview_cell, region_of
from flows.planning.workunit import ModelRef, MosaicUnit, size_problem, version_of, work_id_of
from flows.settings import GridKind, RunSettings
from flows.settings.mosaic_options import MosaicOptions
from stac.catalog.validation import safe_id
from stac.composite.normalisation import ResidualField
from stac.composite.period import Method, PeriodComposite
from stac.composite.radiometry import Radiometry, fit_radiometry
from stac.composite.view_angle import towards_nadir
from stac.errors import EmptySearch, InvalidInput, StacError
from stac.grid.cell import Cell
from stac.load.stack import ReadOptions, Stack, read_stack
from stac.search.acquisitions import Acquisition, group_passes

#: Raised when the same inputs give other pixels than before.
MOSAIC_ALGORITHM = "unveil-mosaic/3"
#: Pixels of a date that the radiometry is learnt from.
_OVERVIEW_PIXELS = 500_000


@dataclass(frozen=True, slots=True)
class MosaicJob:
    """What is wanted of one period."""

    #: With which its scenes are searched and read: all of them, however cloudy.
    settings: RunSettings
    options: MosaicOptions
    region: Region
    period: Period

    @property
    def name(self) -> str:
        """What all its items begin with: items of one name are versions of each other."""
        options, fixed = self.options, self.settings.grid is GridKind.FIXED
        method = f"{options.method}{options.quantile:g}" if options.method is Method.QUANTILE else str(options.method)
        variants = ["nbar"] * options.nbar + [f"fixed{self.settings.resolution:g}"] * fixed
        return safe_id("-".join([self.region.name, self.period.name, method, *variants]))

    @property
    def start(self) -> str:
        """First instant of the period, RFC 3339."""
        return _instant(self.period.start)


def mosaic_jobs(settings: RunSettings, options: MosaicOptions) -> list[MosaicJob]:
    """Return what is wanted of every period, in order.

    Raises:
        InvalidSettings: the region holds no area, or the period is not understood.
        InvalidQuery: area or interval make no sense.
    """
    region, every = region_of(settings, options), {"min_cloud": 0.0, "max_cloud": 100.0, "composite_days": 0}
    jobs = []
    for period in periods_of(options.period, settings.dates, options.last):
        own = {"bbox": region.bbox, "datetime": period.interval, **every}
        jobs.append(MosaicJob(settings.model_copy(update=own), options, region, period))
    _ = jobs[0].settings.query  # a wrong area is reported at once
    return jobs


@dataclass(frozen=True, slots=True)
class MosaicPlan:
    """What a run would make of one period."""

    job: MosaicJob
    units: tuple[MosaicUnit, ...]
    radiometry: Radiometry
    refused: tuple[Refused, ...] = ()
    #: False where a cell of the region cannot be made.
    whole: bool = True

    @property
    def region_work_id(self) -> str:
        """Work id of the item of the whole region: it follows from those of its cells."""
        return work_id_of({"region": self.job.region.name, "cells": sorted(unit.work_id for unit in self.units)})

    @property
    def region_item_id(self) -> str:
        """Id of the item of the whole region."""
        return f"{self.job.name}-region-unveil-{self.region_work_id[:8]}"


class NothingUsable(EmptySearch):
    """No scene of a period can be used."""

    def __init__(self, message: str, refused: tuple[Refused, ...]) -> None:
        """Keep the scenes and cells with their reasons (`refused`) with the error."""
        super().__init__(message)
        self.refused = refused


def plan_period(
    job: MosaicJob, items: Sequence[pystac.Item], model: ModelRef, known: Mapping[str, Any] | None = None
) -> MosaicPlan:
    """Return the units of a period.

    Args:
        job: what is wanted.
        items: scenes of the period.
        model: of the run.
        known: the radiometry document of an earlier mosaic of the same region and period (`radiometry_document`).

    Raises:
        NothingUsable: scenes touch the region, and none can be used.
        EmptySearch: no scene touches the region, or none states the orbit that `nbar` needs.
        StacError: the overview cannot be read.
    """
    settings = job.settings
    cells, refused, lost = cells_with_dates(items, settings)
    cells = [each for each in cells if job.region.holds(each.cell)]
    problems = {each.cell.id: size_problem(each.cell, settings) for each in cells}
    lost += [Refused(name, problem) for name, problem in problems.items() if problem]
    cells = [each for each in cells if not problems[each.cell.id]]
    if not cells:
        empty, unusable = f"No scene of {job.period.name} covers the region {job.region.name}.", (*refused, *lost)
        if unusable:
            reason = f"{empty} The first that cannot be used: {unusable[0].reason}"
            raise NothingUsable(reason, unusable)
        raise EmptySearch(empty)
    used = {item.id: item for each in cells for date in each.dates for item in date.items}
    passes, before = _named_passes(list(used.values()), known)
    unreadable: dict[str, str] = {}
    if before is not None and {date.id for date in passes} <= {fit.date_id for fit in before.dates}:
        radiometry = before
    else:
        cell = overview_cell([each.cell for each in cells], before.crs if before else None)
        overview, unreadable = _overview(passes, cell, settings)
        radiometry = fit_radiometry(overview, before, _views(passes, cell, settings) if job.options.nbar else None)
    fitted = settings.fitted_to(model.sampling).parameters
    units = [_unit(each, job, passes, fitted, model, radiometry, unreadable) for each in cells]
    lost += [Refused(unit.target_id, " ".join(unit.left_out)) for unit in units if not unit.dates]
    made = tuple(unit for unit in units if unit.dates)
    return MosaicPlan(job, made, radiometry, (*refused, *lost), whole=not lost)


def _overview(passes: Sequence[Acquisition], cell: Cell, settings: RunSettings) -> tuple[Stack, dict[str, str]]:
    """Return the dates of a region thinned, and why scenes could not be read, by id.

    A date is without the ground of its scenes that cannot be read.

    Raises:
        InvalidInput: no scene can be read.
    """
    thinned = settings.reading.overview_of(cell, _OVERVIEW_PIXELS)
    found = _read_what_can_be(passes, cell, settings.bands, thinned)
    lost = [date for date in passes if found is None or date.id not in found.item_ids]
    if found is not None and not lost:
        return found, {}
    reasons: dict[str, str] = {}
    for item in (item for date in lost for item in date.items):
        try:
            read_stack([item], cell, settings.bands, replace(thinned, temporal=False))
        except StacError as error:
            reasons[item.id] = str(error)
    sound = [replace(date, items=tuple(i for i in date.items if i.id not in reasons)) for date in passes]
    return read_stack([date for date in sound if date.items], cell, settings.bands, thinned, required=()), reasons


def _read_what_can_be(
    passes: Sequence[Acquisition], cell: Cell, bands: Sequence[str], options: ReadOptions
) -> Stack | None:
    try:
        return read_stack(passes, cell, bands, options, required=())
    except InvalidInput:
        return None


def _views(passes: Sequence[Acquisition], cell: Cell, settings: RunSettings) -> dict[str, ResidualField]:
    """Return what a view from straight above adds to every date whose orbit is known, by id."""
    found = {date.id: towards_nadir(date, cell, settings.bands) for date in passes}
    views = {name: view for name, view in found.items() if view is not None}
    if not views:
        raise EmptySearch(
            f"nbar needs the relative orbit of Sentinel-2, which none of {len(passes)} dates states; leave nbar off."
        )
    return views


def radiometry_document(plan: MosaicPlan, items: Sequence[pystac.Item]) -> dict[str, Any]:
    """Return the radiometry of a mosaic with the scenes it was learnt from, as JSON values."""
    versions = {item.id: version_of(item) for item in items}
    scenes: dict[str, dict[str, list[str]]] = {}
    for unit in plan.units:
        for name, date in zip(unit.date_ids, unit.dates, strict=True):
            scenes.setdefault(name, {}).update({item_id: versions[item_id] for item_id in date})
    return {"radiometry": plan.radiometry.to_dict(), "scenes": scenes}


def _named_passes(
    items: Sequence[pystac.Item], known: Mapping[str, Any] | None
) -> tuple[list[Acquisition], Radiometry | None]:
    """Return the dates of a region, each under the name that it had before, and the fits that still hold.

    A fit holds as long as all scenes it was learnt from are there in the same version.
    """
    passes = group_passes(items)
    if known is None:
        return passes, None
    before, scenes = Radiometry.from_dict(known["radiometry"]), known["scenes"]
    versions = {item.id: version_of(item) for item in items}
    held = {name: set(dates) for name, dates in scenes.items() if all(versions.get(i) == v for i, v in dates.items())}
    if before.reference not in held:
        return passes, None
    named = []
    for date in passes:
        name = next((name for name, ids in held.items() if ids <= set(date.item_ids)), date.id)
        named.append(Acquisition(name, date.items))
    return named, before.of([date.id for date in named])


def _unit(
    found: CellDates,
    job: MosaicJob,
    passes: Sequence[Acquisition],
    parameters: Mapping[str, Any],
    model: ModelRef,
    radiometry: Radiometry,
    unreadable: Mapping[str, str],
) -> MosaicUnit:
    period, options = job.period, job.options
    cell = found.cell
    names = {item_id: date.id for date in passes for item_id in date.item_ids}
    fitted = {fit.date_id for fit in radiometry.dates}
    dates = [Acquisition(names[date.items[0].id], date.items) for date in found.dates]
    used = [d for d in dates if d.id in fitted and not all(name in unreadable for name in d.item_ids)]
    lost = tuple(
        " ".join([f"Date {date.id} could not be read for the overview; it is not used.", *_reasons(date, unreadable)])
        for date in dates
        if date not in used
    )
    composite = PeriodComposite(options.method, radiometry.of([date.id for date in used]), options.quantile)
    identity = {
        "algorithm": MOSAIC_ALGORITHM,
        "region": job.region.name,
        "period": [period.name, str(period.first), str(period.last)],
        "method": [str(options.method), options.quantile],
        "dates": [[version_of(item) for item in date.items] for date in used],
        "radiometry": _digest(composite.radiometry.to_dict()),
        "cell": [
            cell.id,
            str(cell.geobox.crs),
            [float(v) for v in tuple(cell.geobox.affine)[:6]],
            list(cell.geobox.shape),
        ],
        "model": {name: getattr(model, name) for name in ("name", "sha256", "calibration", "validation")},
        "parameters": {
            name: value for name, value in parameters.items() if name not in ("composite", "composite_days")
        },
    }
    work_id = work_id_of(identity)
    return MosaicUnit(
        work_id=work_id,
        item_id=f"{safe_id(f'{job.name}-{cell.id}')}-unveil-{work_id[:8]}",
        region=job.region.name,
        period=period.name,
        start=job.start,
        end=_instant(period.end),
        cell_id=cell.id,
        pixels=cell.pixels,
        date_ids=tuple(date.id for date in used),
        dates=tuple(date.item_ids for date in used),
        composite=composite,
        left_out=(*found.left_out, *lost),
    )


def _reasons(date: Acquisition, unreadable: Mapping[str, str]) -> list[str]:
    return [unreadable[name] for name in date.item_ids if name in unreadable]


def _instant(value: datetime) -> str:
    return value.strftime("%Y-%m-%dT%H:%M:%SZ")


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
