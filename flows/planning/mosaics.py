"""Mosaics of a region and a period: cells, dates, the radiometry they share, and ids that follow from the inputs."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pystac
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.errors import ShapelyError
from shapely.geometry.base import BaseGeometry

from flows.errors import InvalidSettings
from flows.planning.candidates import CellDates, Refused, cells_with_dates
from flows.planning.periods import Period, periods_of
from flows.planning.workunit import ModelRef, MosaicUnit, version_of, work_id_of
from flows.settings import RunSettings
from flows.settings.mosaic_options import MosaicOptions
from stac.catalog.validation import safe_id
from stac.composite.normalisation import ResidualField
from stac.composite.region import PeriodComposite, Radiometry, fit_radiometry
from stac.composite.view_angle import towards_nadir
from stac.errors import EmptySearch
from stac.grid.cell import Cell
from stac.grid.fixed import outline_of_cell
from stac.grid.footprint import around
from stac.load.stack import read_stack
from stac.search.acquisitions import Acquisition, group_passes

#: Raised when the same inputs give other pixels than before.
MOSAIC_ALGORITHM = "unveil-mosaic/2"
#: Pixels of a date that the radiometry is learnt from.
_OVERVIEW_PIXELS = 500_000
#: Wider regions of several projections are matched on an equal-area grid, degrees.
_WIDEST_DEG, _WIDE_CRS = 12.0, "EPSG:6933"


@dataclass(frozen=True, slots=True)
class Region:
    """What is mosaicked."""

    name: str
    #: `west,south,east,north` in degrees; None for everything that the source has.
    bbox: str | None
    #: In degrees; None for the whole box.
    outline: BaseGeometry | None = None

    def holds(self, cell: Cell) -> bool:
        """Return whether a cell touches the region."""
        if self.outline is None:
            return True
        ground = outline_of_cell(cell)
        return bool(around(self.outline, float(ground.centroid.x)).intersects(ground))


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
        """What all its items begin with."""
        return f"{self.region.name}-{self.period.name}-{self.options.method}{'-nbar' if self.options.nbar else ''}"

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

    @property
    def region_work_id(self) -> str:
        """Work id of the item of the whole region: it follows from those of its cells."""
        return work_id_of({"region": self.job.region.name, "cells": sorted(unit.work_id for unit in self.units)})

    @property
    def region_item_id(self) -> str:
        """Id of the item of the whole region."""
        return f"{self.job.name}-region-unveil-{self.region_work_id[:8]}"


def region_of(settings: RunSettings, options: MosaicOptions) -> Region:
    """Return the region of some settings.

    Raises:
        InvalidSettings: the GeoJSON file cannot be read, or holds no area.
    """
    if options.region is None:
        made = "all" if settings.bbox is None else f"box{hashlib.sha256(settings.bbox.encode()).hexdigest()[:6]}"
        return Region(safe_id(options.name or made), settings.bbox)
    outline = _geojson(options.region)
    return Region(safe_id(options.name or options.region.stem), _box(outline), outline)


def _geojson(path: Path) -> BaseGeometry:
    try:
        document = json.loads(path.read_text("utf-8"))
        features = document["features"] if document.get("type") == "FeatureCollection" else [document]
        shapes = [shapely.geometry.shape(each.get("geometry") or each) for each in features]
        found = shapely.make_valid(shapely.union_all(shapes))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ShapelyError) as error:
        said = (error.strerror or "" if isinstance(error, OSError) else str(error)).splitlines()
        reason = said[0] if said else type(error).__name__
        raise InvalidSettings(f"Region {path} cannot be read as GeoJSON ({reason}); check --region.") from error
    west, south, east, north = found.bounds if not found.is_empty else (0, 0, 0, 0)
    if found.area == 0 or not (west >= -180 and east <= 180 and south >= -90 and north <= 90):
        raise InvalidSettings(f"Region {path} holds no area in degrees; give a polygon in longitude and latitude.")
    return found


def _box(outline: BaseGeometry) -> str:
    """Return the box of an outline, west above east where its parts lie on both sides of the antimeridian."""
    west, south, east, north = outline.bounds
    if east - west > 180:
        parts = list(getattr(outline, "geoms", [outline]))
        west = min(part.bounds[0] for part in parts if part.bounds[0] > 0)
        east = max(part.bounds[2] for part in parts if part.bounds[2] < 0)
    return f"{west!r},{south!r},{east!r},{north!r}"


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
        EmptySearch: no scene touches the region.
        StacError: the overview cannot be read.
    """
    settings = job.settings
    cells, refused = cells_with_dates(items, settings)
    cells = [each for each in cells if job.region.holds(each.cell)]
    if not cells:
        reasons = f" The first that cannot be used: {refused[0].reason}" if refused else ""
        raise EmptySearch(f"No scene of {job.period.name} covers the region {job.region.name}.{reasons}")
    used = {item.id: item for each in cells for date in each.dates for item in date.items}
    passes, before = _named_passes(list(used.values()), known)
    if before is not None and {date.id for date in passes} <= {fit.date_id for fit in before.dates}:
        radiometry = before
    else:
        cell = overview_cell([each.cell for each in cells], before.crs if before else None)
        thinned = settings.reading.overview_of(cell, _OVERVIEW_PIXELS)
        overview = read_stack(passes, cell, settings.bands, thinned, required=())
        radiometry = fit_radiometry(overview, before, _views(passes, cell, settings) if job.options.nbar else None)
    fitted = settings.fitted_to(model.scene).parameters
    units = [_unit(each, job, passes, fitted, model, radiometry) for each in cells]
    refused += [Refused(unit.target_id, " ".join(unit.left_out)) for unit in units if not unit.dates]
    return MosaicPlan(job, tuple(unit for unit in units if unit.dates), radiometry, tuple(refused))


def _views(passes: Sequence[Acquisition], cell: Cell, settings: RunSettings) -> dict[str, ResidualField]:
    """Return what a view from straight above adds to every date whose orbit is known, by id."""
    found = {date.id: towards_nadir(date, cell, settings.bands) for date in passes}
    views = {name: view for name, view in found.items() if view is not None}
    if not views:
        raise InvalidSettings(
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


def overview_cell(cells: Sequence[Cell], crs: str | None = None) -> Cell:
    """Return a cell that holds all others.

    Args:
        cells: in one projection or several.
        crs: its projection; that of most of them when left out, or an equal-area one where they lie far apart.
    """
    if crs is None:
        number = Counter(str(cell.geobox.crs) for cell in cells)
        longitudes = [float(outline_of_cell(cell).centroid.x) for cell in cells]
        wide = len(number) > 1 and _spread(longitudes) > _WIDEST_DEG
        crs = _WIDE_CRS if wide else min(number, key=lambda name: (-number[name], name))
    own = [cell.geobox for cell in cells if str(cell.geobox.crs) == crs]
    affine = own[0].affine if own else Affine(cells[0].gsd_m, 0, 0, 0, -cells[0].gsd_m, 0)
    base = GeoBox((1, 1), affine, crs)
    corners = [
        base.wld2pix(x, y)
        for box in (cell.geobox.extent.to_crs(crs).boundingbox for cell in cells)
        for x in (box.left, box.right)
        for y in (box.bottom, box.top)
    ]
    columns, rows = zip(*corners, strict=True)
    left, top = math.floor(min(columns) + 1e-6), math.floor(min(rows) + 1e-6)
    width, height = math.ceil(max(columns) - 1e-6) - left, math.ceil(max(rows) - 1e-6) - top
    return Cell("region", GeoBox((height, width), affine * Affine.translation(left, top), crs))


def _spread(longitudes: Sequence[float]) -> float:
    """Return the width of the smallest arc that holds some longitudes, degrees, also across the antimeridian."""
    ordered = sorted(longitude % 360 for longitude in longitudes)
    gaps = [after - before for before, after in zip(ordered, [*ordered[1:], ordered[0] + 360], strict=True)]
    return 360 - max(gaps)


def _unit(
    found: CellDates,
    job: MosaicJob,
    passes: Sequence[Acquisition],
    parameters: Mapping[str, Any],
    model: ModelRef,
    radiometry: Radiometry,
) -> MosaicUnit:
    period, options = job.period, job.options
    cell = found.cell
    names = {item_id: date.id for date in passes for item_id in date.item_ids}
    fitted = {fit.date_id for fit in radiometry.dates}
    dates = [Acquisition(names[date.items[0].id], date.items) for date in found.dates]
    used = [date for date in dates if date.id in fitted]
    lost = tuple(
        f"Date {date.id} could not be read for the overview; it is not used." for date in dates if date not in used
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


def _instant(value: datetime) -> str:
    return value.strftime("%Y-%m-%dT%H:%M:%SZ")


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
