"""Which dates of which cells may be restored, and what other dates can help: the choices a plan is made of."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum, unique

import pystac
from shapely.geometry.base import BaseGeometry

from flows.errors import is_unusable
from flows.settings import GridKind, RunSettings
from stac.errors import InvalidInput, StacError
from stac.grid.cell import Cell, cell_of, declared_projection, grid_code, native_geobox, same_cell
from stac.grid.fixed import outline_of_cell
from stac.grid.footprint import box_around, boxes_touch, outline_of_item, share_covered
from stac.search import acquisitions
from stac.search.acquisitions import Acquisition, group_passes, instant_of
from stac.search.source import one_item


@dataclass(frozen=True, slots=True)
class Candidate:
    """One date of one cell, the other dates that see the cell, and those that hardly do."""

    cell: Cell
    target: Acquisition
    sources: tuple[Acquisition, ...]
    #: Cloud cover that the sources declare for the target, percent.
    cloud_cover: float
    #: Why other dates are not used, one sentence each.
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """A scene that cannot become a work unit."""

    target_id: str
    reason: str
    #: Items of the date, where it has several.
    item_ids: tuple[str, ...] = ()
    #: Something failed, such as reading a file that says its grid; the scene is not at fault.
    failed: bool = False

    @classmethod
    def because(cls, error: StacError, target_id: str, item_ids: tuple[str, ...] = ()) -> Refused:
        """Return a scene that an error keeps from becoming a unit."""
        return cls(target_id, str(error), item_ids, failed=not is_unusable(error))


@unique
class Cause(StrEnum):
    """Why a scene is left out."""

    #: Less or more cloud than the settings want.
    CLOUD = "cloud cover"
    #: It covers less than `min_coverage` of the cell; not an error.
    COVERAGE = "coverage"
    #: A newer version, or the same item again, stands for it.
    VERSION = "version"
    #: The search could not use its item.
    UNUSABLE = "unusable item"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A scene that no work unit is made for."""

    target_id: str
    reason: str
    cause: Cause


def cloud_cover(item: pystac.Item) -> float:
    """Return the declared cloud cover in percent; 100 where it is unknown."""
    known = acquisitions.cloud_cover(item)
    return 100.0 if known is None else known


def candidates(items: Sequence[pystac.Item], settings: RunSettings) -> Iterator[Choice]:
    """Yield every date in the interval and cloud range of every cell, or why it is not used.

    Args:
        items: scenes of the interval widened by `composite_days`.
        settings: area, interval, grid and limits.
    """
    scenes, refused = _located(items, settings)
    yield from refused
    yield from (_native if settings.grid is GridKind.NATIVE else _fixed)(scenes, settings)


@dataclass(frozen=True, slots=True)
class CellDates:
    """A cell and all dates that see it, by time."""

    cell: Cell
    dates: tuple[Acquisition, ...]
    #: Why other dates are not used, one sentence each.
    left_out: tuple[str, ...] = ()


def cells_with_dates(
    items: Sequence[pystac.Item], settings: RunSettings
) -> tuple[list[CellDates], list[Refused], list[Refused]]:
    """Return every cell that scenes of the interval and the area touch with all its dates.

    A square's cell is that of its first date that has one.

    Args:
        items: scenes of the interval.
        settings: area, interval, grid and `min_coverage`.

    Returns:
        The cells, unusable scenes, and scenes whose square has no cell.
    """
    scenes, refused = _located(items, settings)
    lost: list[Refused] = []
    grounds: list[_Ground] = []
    if settings.grid is GridKind.FIXED:
        grounds = [_Ground(cell, scenes) for cell in _cells(scenes, settings)]
    else:
        for passes in _by_square(scenes).values():
            match _first_cell(passes, settings):
                case Cell() as cell:
                    grounds.append(_Ground(cell, scenes, passes))
                case Refused() as reason:
                    lost.append(reason)
    found = [_used(ground, settings) for ground in grounds]
    return [each for each in found if each.dates], refused, lost


def _first_cell(passes: Sequence[Acquisition], settings: RunSettings) -> Cell | Refused:
    """Return the cell of the first date that has one, or why none has."""
    reasons: list[Refused] = []
    for item in (date.items[0] for date in passes):
        try:
            with one_item(item.id):
                return cell_of(item, settings.bands[0], settings.query.bbox, settings.access)
        except StacError as error:
            reasons.append(Refused.because(error, item.id))
    return reasons[0]


def _used(ground: _Ground, settings: RunSettings) -> CellDates:
    inside = [date for date in ground.passes if _in_interval(date, settings)]
    return CellDates(ground.cell, *ground.sorted_out(inside, settings.min_coverage / 100))


Choice = Candidate | Refused | LeftOut


@dataclass(frozen=True, slots=True)
class _Scene:
    item: pystac.Item
    #: Footprint in degrees.
    outline: BaseGeometry


_Scenes = dict[str, _Scene]


class _Ground:
    """A cell, the dates that see it, and how much of it each of them covers: asked once for each date."""

    def __init__(self, cell: Cell, scenes: _Scenes, passes: Sequence[Acquisition] | None = None) -> None:
        self.cell, self._scenes = cell, scenes
        self._outline = outline_of_cell(cell)
        self._shares: dict[tuple[str, ...], float] = {}
        #: By time.
        self.passes = self._touching() if passes is None else passes
        self._instants = [date.instant for date in self.passes]

    def share(self, date: Acquisition) -> float:
        """Return the share 0..1 of the cell that a date covers."""
        return self._share(date.item_ids)

    def cover(self, date: Acquisition) -> float:
        """Return the declared cloud cover of a date, percent: the mean of its scenes, by what each covers here."""
        if len(date.items) == 1:
            return cloud_cover(date.items[0])
        shares = [self._share((item.id,)) for item in date.items]
        return sum(s * cloud_cover(item) for s, item in zip(shares, date.items, strict=True)) / sum(shares)

    def others(self, target: Acquisition, days: float) -> list[Acquisition]:
        """Return the dates within so many days of a date that share no scene with it."""
        reach, instant = timedelta(days=days), target.instant
        first, last = bisect_left(self._instants, instant - reach), bisect_right(self._instants, instant + reach)
        own = set(target.item_ids)
        return [date for date in self.passes[first:last] if own.isdisjoint(date.item_ids)]

    def sorted_out(self, dates: Sequence[Acquisition], least: float) -> tuple[tuple[Acquisition, ...], tuple[str, ...]]:
        """Return the dates that cover so much of the cell, and why the others are not used."""
        shares = [(date, self.share(date)) for date in dates]
        few = tuple(f"{_few(date, seen, self.cell)}; it is not used." for date, seen in shares if seen < least)
        return tuple(date for date, seen in shares if seen >= least), few

    def _share(self, item_ids: tuple[str, ...]) -> float:
        if item_ids not in self._shares:
            outlines = [self._scenes[name].outline for name in item_ids]
            self._shares[item_ids] = share_covered(self._outline, outlines)
        return self._shares[item_ids]

    def _touching(self) -> list[Acquisition]:
        """Return the dates that touch the cell; scenes in its own projection are drawn first."""
        near = [scene.item for scene in self._scenes.values() if boxes_touch(self._outline, scene.outline)]
        touching = [item for item in near if self._share((item.id,)) > 0]
        own = str(self.cell.geobox.crs).upper()
        return [date.drawn_by(lambda i: declared_projection(i) != own) for date in group_passes(touching)]


def _located(items: Sequence[pystac.Item], settings: RunSettings) -> tuple[_Scenes, list[Refused]]:
    scenes: _Scenes = {}
    refused: list[Refused] = []
    for item in (item for item in items if item.datetime is not None):
        try:
            with one_item(item.id):
                scenes[item.id] = _Scene(item, _outline(item, settings))
        except StacError as error:
            if settings.query.contains(instant_of(item)):
                refused.append(Refused.because(error, item.id))
    return scenes, refused


def _outline(item: pystac.Item, settings: RunSettings) -> BaseGeometry:
    try:
        return outline_of_item(item)
    except InvalidInput:
        # A band round the world, or nothing: the pixel grid still says where the scene lies.
        return outline_of_item(item, native_geobox(item, settings.bands[0], access=settings.access))


def _native(scenes: _Scenes, settings: RunSettings) -> Iterator[Choice]:
    """Yield the dates of every tile on the tile's own grid."""
    for code, passes in _by_square(scenes).items():
        grounds: list[_Ground] = []
        for target in filter(lambda date: _in_interval(date, settings), passes):
            cover = sum(cloud_cover(item) for item in target.items) / len(target.items)
            if not settings.min_cloud <= cover <= settings.max_cloud:
                yield _by_cloud(target.id, cover, settings)
                continue
            try:
                with one_item(target.id):
                    cell = cell_of(target.items[0], settings.bands[0], settings.query.bbox, settings.access)
                ground = next((known for known in grounds if same_cell(known.cell, cell)), None)
                if ground is None:
                    named = code != target.items[0].id
                    ground = _Ground(cell, scenes, passes if named else None)
                    grounds.append(ground)
                yield _candidate(ground, target, cover, settings)
            except StacError as error:
                yield Refused.because(error, target.id, target.item_ids)


def _by_square(scenes: _Scenes) -> dict[str, list[Acquisition]]:
    squares: dict[str, list[pystac.Item]] = {}
    for scene in scenes.values():
        squares.setdefault(grid_code(scene.item), []).append(scene.item)
    return {code: group_passes(items) for code, items in sorted(squares.items())}


def _fixed(scenes: _Scenes, settings: RunSettings) -> Iterator[Choice]:
    """Yield the dates of every cell of the fixed grid that a scene of the interval and the area touch."""
    for cell in _cells(scenes, settings):
        ground = _Ground(cell, scenes)
        for target in filter(lambda date: _in_interval(date, settings), ground.passes):
            cover = ground.cover(target)
            if not settings.min_cloud <= cover <= settings.max_cloud:
                yield _by_cloud(target.id, cover, settings)
                continue
            try:
                yield _candidate(ground, target, cover, settings)
            except InvalidInput as error:
                yield LeftOut(target.id, str(error), Cause.COVERAGE)


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


def _candidate(ground: _Ground, target: Acquisition, cover: float, settings: RunSettings) -> Candidate:
    least, cell = settings.min_coverage / 100, ground.cell
    if (seen := ground.share(target)) < least:
        raise InvalidInput(f"{_few(target, seen, cell)}; there is hardly anything to restore.")
    sources, left_out = ground.sorted_out(ground.others(target, settings.composite_days), least)
    return Candidate(cell, target, sources, cover, left_out)


def _by_cloud(target_id: str, cover: float, settings: RunSettings) -> LeftOut:
    wanted = f"{settings.min_cloud:g} to {settings.max_cloud:g} %"
    return LeftOut(target_id, f"Scene {target_id} has {cover:.0f} % cloud; {wanted} are restored.", Cause.CLOUD)


def _few(date: Acquisition, share: float, cell: Cell) -> str:
    return f"Scene {date.id} covers {share:.2%} of cell {cell.id}, less than min_coverage"


def _in_interval(date: Acquisition, settings: RunSettings) -> bool:
    return settings.query.contains(date.instant)
