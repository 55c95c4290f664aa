"""Which dates of which cells may be restored, and what other dates can help: the choices a plan is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import pystac
from shapely.geometry.base import BaseGeometry

from flows.settings import GridKind, RunSettings
from stac.acquisitions import Acquisition, group_passes, instant_of
from stac.errors import InvalidInput
from stac.fixed_grid import outline_of_cell
from stac.footprints import box_around, boxes_touch, outline_of_item, share_covered
from stac.grid import Cell, cell_of, declared_projection, grid_code, native_geobox


@dataclass(frozen=True, slots=True)
class Candidate:
    """One date of one cell, the other dates that see the cell, and those that hardly do."""

    cell: Cell
    target: Acquisition
    donors: tuple[Acquisition, ...]
    #: Cloud cover that the sources declare for the target, percent.
    cloud_cover: float
    #: Why other dates are not used, one sentence each.
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """A scene that cannot become a work unit."""

    target_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A date that hardly touches a cell: nothing is wrong with it, its ground belongs to the next cell."""

    target_id: str
    reason: str


def cloud_cover(item: pystac.Item) -> float:
    """Return the declared cloud cover in percent; 100 when the item does not say."""
    return float(item.properties.get("eo:cloud_cover", 100.0))


def candidates(items: Sequence[pystac.Item], settings: RunSettings) -> Iterator[Choice]:
    """Yield every date in the interval and cloud range of every cell, or why it is not used.

    Args:
        items: scenes of the interval widened by `prior_days`.
        settings: area, interval, grid and limits.
    """
    scenes, refused = _located(items, settings)
    yield from refused
    yield from (_native if settings.grid is GridKind.NATIVE else _fixed)(scenes, settings)


Choice = Candidate | Refused | LeftOut


@dataclass(frozen=True, slots=True)
class _Scene:
    item: pystac.Item
    #: Footprint in degrees.
    outline: BaseGeometry


_Scenes = dict[str, _Scene]


def _located(items: Sequence[pystac.Item], settings: RunSettings) -> tuple[_Scenes, list[Refused]]:
    scenes: _Scenes = {}
    refused: list[Refused] = []
    for item in (item for item in items if item.datetime is not None):
        try:
            scenes[item.id] = _Scene(item, _outline(item, settings))
        except InvalidInput as error:
            if settings.query.contains(instant_of(item)):
                refused.append(Refused(item.id, str(error)))
    return scenes, refused


def _outline(item: pystac.Item, settings: RunSettings) -> BaseGeometry:
    try:
        return outline_of_item(item)
    except InvalidInput:
        # A band round the world, or nothing: the pixel grid still says where the scene lies.
        return outline_of_item(item, native_geobox(item, settings.bands[0]))


def _native(scenes: _Scenes, settings: RunSettings) -> Iterator[Choice]:
    """Yield the dates of every tile on the tile's own grid."""
    for code, passes in _by_square(scenes).items():
        for target in filter(lambda date: _in_interval(date, settings), passes):
            cover = _cover(target, None, scenes)
            if not settings.min_cloud <= cover <= settings.max_cloud:
                continue
            try:
                cell = cell_of(target.items[0], settings.bands[0], settings.query.bbox)
                named = code != target.items[0].id
                others = passes if named else _over(cell, scenes)
                yield _candidate(cell, target, others, cover, scenes, settings)
            except InvalidInput as error:
                yield Refused(target.id, str(error))


def _by_square(scenes: _Scenes) -> dict[str, list[Acquisition]]:
    squares: dict[str, list[pystac.Item]] = {}
    for scene in scenes.values():
        squares.setdefault(grid_code(scene.item), []).append(scene.item)
    return {code: group_passes(items) for code, items in sorted(squares.items())}


def _fixed(scenes: _Scenes, settings: RunSettings) -> Iterator[Choice]:
    """Yield the dates of every cell of the fixed grid that a scene of the interval and the area touch."""
    for cell in _cells(scenes, settings):
        passes = _over(cell, scenes)
        for target in filter(lambda date: _in_interval(date, settings), passes):
            cover = _cover(target, cell, scenes)
            if not settings.min_cloud <= cover <= settings.max_cloud:
                continue
            try:
                yield _candidate(cell, target, passes, cover, scenes, settings)
            except InvalidInput as error:
                yield LeftOut(target.id, str(error))


def _cells(scenes: _Scenes, settings: RunSettings) -> list[Cell]:
    found: dict[str, Cell] = {}
    bbox = settings.query.bbox
    for scene in scenes.values():
        area = scene.outline
        if bbox is not None:
            area = area.intersection(box_around(bbox, float(area.centroid.x)))
        if area.area > 0 and settings.query.contains(instant_of(scene.item)):
            found |= {cell.id: cell for cell in settings.fixed_grid.cells(area)}
    return [found[name] for name in sorted(found)]


def _over(cell: Cell, scenes: _Scenes) -> list[Acquisition]:
    """Return the dates that touch a cell; scenes in the cell's own projection are drawn first, then by id."""
    outline = outline_of_cell(cell)
    near = [scene for scene in scenes.values() if boxes_touch(outline, scene.outline)]
    touching = [scene.item for scene in near if share_covered(outline, [scene.outline]) > 0]
    own = str(cell.geobox.crs).upper()
    return [date.drawn_by(lambda i: (declared_projection(i) != own, i.id)) for date in group_passes(touching)]


def _candidate(
    cell: Cell,
    target: Acquisition,
    others: Sequence[Acquisition],
    cover: float,
    scenes: _Scenes,
    settings: RunSettings,
) -> Candidate:
    outline, least = outline_of_cell(cell), settings.min_coverage / 100

    def share(date: Acquisition) -> float:
        return share_covered(outline, [scenes[i].outline for i in date.item_ids])

    if (seen := share(target)) < least:
        raise InvalidInput(f"{_few(target, seen, cell)}; there is hardly anything to restore.")
    near = [d for d in others if not set(d.item_ids) & set(target.item_ids) and _near(d, target, settings)]
    shares = [(date, share(date)) for date in near]
    left_out = tuple(f"{_few(date, covered, cell)}; it is not used." for date, covered in shares if covered < least)
    donors = tuple(date for date, covered in shares if covered >= least)
    return Candidate(cell, target, donors, cover, left_out)


def _few(date: Acquisition, share: float, cell: Cell) -> str:
    return f"Scene {date.id} covers {share:.2%} of cell {cell.id}, less than min_coverage"


def _near(date: Acquisition, target: Acquisition, settings: RunSettings) -> bool:
    return abs(date.instant - target.instant) <= timedelta(days=settings.prior_days)


def _in_interval(date: Acquisition, settings: RunSettings) -> bool:
    return settings.query.contains(date.instant)


def _cover(date: Acquisition, cell: Cell | None, scenes: _Scenes) -> float:
    """Return the declared cloud cover of a date, percent: the mean of its scenes, by what each covers of the cell."""
    if len(date.items) == 1 or cell is None:
        return sum(cloud_cover(item) for item in date.items) / len(date.items)
    outline = outline_of_cell(cell)
    shares = [share_covered(outline, [scenes[i].outline]) for i in date.item_ids]
    return sum(s * cloud_cover(item) for s, item in zip(shares, date.items, strict=True)) / sum(shares)
