"""Work units: what is to be restored, from what, with a name that follows from the inputs alone."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pystac

from de_model.inference.sampling import Sampling
from flows.planning.candidates import Candidate, Cause, LeftOut, Refused, candidates, cloud_cover
from flows.settings import GridKind, RunSettings
from stac.catalog.validation import safe_id
from stac.composite.period import PeriodComposite
from stac.errors import EmptySearch
from stac.grid.cell import Cell, cell_of
from stac.search.acquisitions import Acquisition
from stac.search.source import Skipped

#: Raised when the same inputs give other pixels than before.
ALGORITHM = "unveil/8"
#: Items that the search passed over, in the metadata of a product.
_MOST_SKIPPED = 50
_NAMESPACE = uuid.UUID("6f1d3f0a-52f4-5b0e-9a51-6f2f9f1f7a35")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model of a run: its registered version and the fetched weights."""

    name: str
    version: str
    sha256: str
    weights: str
    #: Checksum of the table that makes its intervals; empty without one.
    calibration: str = ""
    #: Checksum of the record that says what fills which kind of gap; empty without one.
    validation: str = ""
    #: How it is sampled where settings do not say.
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """One date of one cell. Two units with the same inputs have the same id, on any machine."""

    work_id: str
    #: Id of the product's item.
    item_id: str
    #: Id of the source item whose date is restored; of the acquisition where the date has several.
    target_id: str
    #: Ids of the other dates of the cell.
    source_ids: tuple[str, ...]
    #: Ids of the source items of every date, the target's first, in the order in which they are drawn.
    dates: tuple[tuple[str, ...], ...]
    cell_id: str
    #: Area, pixels.
    pixels: int
    #: Cloud cover that the source declares, percent.
    cloud_cover: float
    #: Why other dates of the cell are not used, one sentence each.
    left_out: tuple[str, ...] = ()

    @property
    def date_ids(self) -> tuple[str, ...]:
        """Ids of the dates, the target first."""
        return (self.target_id, *self.source_ids)


@dataclass(frozen=True, slots=True)
class MosaicUnit:
    """One cell of one period. Two units with the same inputs have the same id, on any machine."""

    work_id: str
    #: Id of the product's item.
    item_id: str
    region: str
    #: Name, and first and last instant (RFC 3339).
    period: str
    start: str
    end: str
    cell_id: str
    pixels: int
    #: Ids of the dates, by time, and of the scenes of each in the order in which they are drawn.
    date_ids: tuple[str, ...]
    dates: tuple[tuple[str, ...], ...]
    #: How the dates become one.
    composite: PeriodComposite
    left_out: tuple[str, ...] = ()

    @property
    def target_id(self) -> str:
        """What the ledger and people call it."""
        return self.item_id.rpartition("-unveil-")[0]


#: What is made at once: one date, or a mosaic of many.
Unit = WorkUnit | MosaicUnit


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do."""

    units: tuple[WorkUnit, ...]
    refused: tuple[Refused, ...]
    #: Scenes found, targets and source dates.
    scenes: int
    #: Scenes in the interval that no unit is made for.
    left_out: tuple[LeftOut, ...] = ()


def make_plan(
    items: Sequence[pystac.Item], settings: RunSettings, model: ModelRef, skipped: Sequence[Skipped] = ()
) -> Plan:
    """Return the work units for scenes found by `settings.search`.

    Args:
        items: the scenes.
        settings: area, interval, grid, and all that pixels depend on.
        model: of the run.
        skipped: items that the search passed over.

    Raises:
        EmptySearch: no scene lies in the interval and cloud range.
        InvalidQuery: area, interval or grid make no sense.
    """
    covers = _covers_inside(items, settings, skipped)
    parameters = settings.fitted_to(model.sampling).parameters
    units: list[WorkUnit] = []
    refused: list[Refused] = []
    left_out = [passed_over(each) for each in skipped]
    for found in candidates(items, settings):
        match found:
            case Refused():
                refused.append(found)
            case LeftOut():
                left_out.append(found)
            case Candidate() if problem := size_problem(found.cell, settings):
                refused.append(Refused(found.target.id, f"Scene {found.target.id}: {problem}", found.target.item_ids))
            case Candidate():
                units.append(_unit(found, parameters, model, skipped, named=settings.grid is GridKind.FIXED))
    if not (units or refused):
        uncovered = next((each.reason for each in left_out if each.cause is Cause.COVERAGE), None)
        if uncovered is not None:
            raise EmptySearch(f"Nothing is to be restored: {uncovered}")
        raise EmptySearch(
            f"{len(covers)} scenes were found, with {covers[0]:.0f} to {covers[-1]:.0f} % cloud, none within "
            f"{settings.min_cloud:g} to {settings.max_cloud:g} %; change --min-cloud or --max-cloud. A scene "
            f"without eo:cloud_cover counts as 100 %.{_also(skipped)}"
        )
    return Plan(tuple(units), tuple(refused), len(items), tuple(left_out))


def size_problem(cell: Cell, settings: RunSettings) -> str:
    """Return why a cell is too large for one unit; empty where it is not."""
    if cell.pixels <= settings.max_pixels:
        return ""
    has, most = (f"{number / 1e6:.0f} million" for number in (cell.pixels, settings.max_pixels))
    return f"Cell {cell.id} has {has} pixels, more than {most}; choose a smaller --bbox or raise max_pixels."


def passed_over(each: Skipped) -> LeftOut:
    """Return an item that a search passed over as a scene without a unit."""
    return LeftOut(each.item_id, each.reason, Cause.VERSION if each.superseded_by else Cause.UNUSABLE)


def _also(skipped: Sequence[Skipped]) -> str:
    """Return what to know about unusable items where nothing is left to restore."""
    unusable = [each.reason for each in skipped if not each.superseded_by]
    return f" {len(unusable)} items could not be used; the first: {unusable[0]}" if unusable else ""


def _covers_inside(items: Sequence[pystac.Item], settings: RunSettings, skipped: Sequence[Skipped]) -> list[float]:
    """Return the sorted cloud covers of the scenes in the interval, percent."""
    inside = [item for item in items if item.datetime is not None and settings.query.contains(item.datetime)]
    if not inside:
        raise EmptySearch(
            f"No scene of {settings.collection} in {settings.shown_dates}"
            f"{f' within {settings.bbox}' if settings.bbox else ''}; widen --datetime or --bbox.{_also(skipped)}"
        )
    return sorted(cloud_cover(item) for item in inside)


def _unit(
    found: Candidate, parameters: Mapping[str, Any], model: ModelRef, skipped: Sequence[Skipped], *, named: bool
) -> WorkUnit:
    """Return a candidate as a unit; its item is named after the cell, too, where a scene has several."""
    cell, target, sources = found.cell, found.target, found.sources
    identity = {
        "algorithm": ALGORITHM,
        "target": [version_of(item) for item in target.items],
        "sources": [[version_of(item) for item in source.items] for source in sources],
        "cell": _definition(cell),
        "model": {name: getattr(model, name) for name in ("name", "sha256", "calibration", "validation")},
        "parameters": parameters,
    }
    work_id = work_id_of(identity)
    place = f"-{cell.id}" if named else ""
    dates = (target.item_ids, *(source.item_ids for source in sources))
    scenes = {name for date in dates for name in date}
    passed = [each.reason for each in skipped if not each.superseded_by or each.superseded_by in scenes]
    return WorkUnit(
        work_id=work_id,
        item_id=f"{safe_id(target.id + place)}-unveil-{work_id[:8]}",
        target_id=target.id,
        source_ids=tuple(source.id for source in sources),
        dates=dates,
        cell_id=cell.id,
        pixels=cell.pixels,
        cloud_cover=found.cloud_cover,
        left_out=(*found.left_out, *passed[:_MOST_SKIPPED]),
    )


def _definition(cell: Cell) -> dict[str, Any]:
    """Return what makes a cell this one and no other."""
    geobox = cell.geobox
    return {
        "id": cell.id,
        "projection": str(geobox.crs),
        "transform": [float(v) for v in tuple(geobox.affine)[:6]],
        "shape": [int(n) for n in geobox.shape],
        "owned": cell.owned,
    }


def unit_cell(unit: Unit, items: Mapping[str, pystac.Item], settings: RunSettings) -> Cell:
    """Return the cell a unit is made in.

    Raises:
        InvalidInput: the item has no usable grid, the box does not touch it, or the cell is not of the grid.
    """
    if settings.grid is GridKind.FIXED:
        return settings.fixed_grid.cell(unit.cell_id)
    cell = cell_of(items[unit.dates[0][0]], settings.bands[0], settings.query.bbox, settings.access)
    return replace(cell, id=unit.cell_id)


def unit_dates(unit: Unit, items: Mapping[str, pystac.Item]) -> list[Acquisition]:
    """Return the dates of a unit, in its order."""
    return [
        Acquisition(name, tuple(items[item_id] for item_id in scenes))
        for name, scenes in zip(unit.date_ids, unit.dates, strict=True)
    ]


def work_id_of(identity: Mapping[str, Any]) -> str:
    """Return the UUID5 of an identity document: the same on every machine and in every order of keys."""
    return str(uuid.uuid5(_NAMESPACE, json.dumps(identity, sort_keys=True, separators=(",", ":"))))


def version_of(item: pystac.Item) -> list[str]:
    """Return what distinguishes a reprocessed scene from the one before."""
    properties = item.properties
    names = ("updated", "s2:generation_time", "processing:datetime", "version")
    return [item.collection_id or "", item.id, *(str(properties.get(name, "")) for name in names)]
