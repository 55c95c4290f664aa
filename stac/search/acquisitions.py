"""What one satellite took in one pass: the scenes that make up one date of a cell."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pystac

from stac.errors import InvalidItem
from stac.grid.cell import grid_code
from stac.search.processing import rank

#: Scenes further apart are of two passes: a satellite in a low orbit comes by every 95 minutes at the earliest.
_SAME_PASS = timedelta(minutes=30)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Acquisition:
    """Scenes of one platform and pass. A pixel is drawn from the first of them that has data there."""

    #: The scene's id where it is one, else platform and time of the pass.
    id: str
    items: tuple[pystac.Item, ...]

    @classmethod
    def of(cls, items: Sequence[pystac.Item]) -> Acquisition:
        """Return the acquisition of some scenes, drawn in the order given.

        Raises:
            InvalidItem: there is none, or one has no acquisition time.
        """
        if not items:
            raise InvalidItem("An acquisition needs one scene at least.")
        first = min(instant_of(item) for item in items)
        platform = re.sub(r"[^a-z0-9-]+", "-", platform_of(items[0])) or "pass"
        return cls(items[0].id if len(items) == 1 else f"{platform}_{first:%Y%m%dT%H%M%S}", tuple(items))

    @property
    def instant(self) -> datetime:
        """Time of the earliest scene, UTC."""
        return min(instant_of(item) for item in self.items)

    @property
    def day(self) -> int:
        """Days since 1970-01-01."""
        return (self.instant - _EPOCH).days

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Ids of the scenes, first drawn first."""
        return tuple(item.id for item in self.items)

    def drawn_by(self, order: Callable[[pystac.Item], Any]) -> Acquisition:
        """Return the acquisition with its scenes in another order."""
        return Acquisition(self.id, tuple(sorted(self.items, key=order)))


def group_passes(items: Iterable[pystac.Item]) -> list[Acquisition]:
    """Return scenes as acquisitions, by time; within one the scenes are drawn by grid square, the newest version first.

    Scenes of one platform less than half an hour apart are of one pass, also over midnight and whatever their
    catalog calls the datatake.

    Raises:
        InvalidItem: a scene has no acquisition time.
    """
    passes: list[list[pystac.Item]] = []
    for item in sorted(items, key=lambda i: (platform_of(i), instant_of(i), i.id)):
        last = passes[-1][-1] if passes else None
        together = last is not None and platform_of(last) == platform_of(item)
        if last is not None and together and instant_of(item) - instant_of(last) < _SAME_PASS:
            passes[-1].append(item)
        else:
            passes.append([item])
    newest = [sorted(scenes, key=rank, reverse=True) for scenes in passes]
    found = [Acquisition.of(sorted(scenes, key=grid_code)) for scenes in newest]
    return sorted(found, key=lambda a: (a.instant, a.id))


def platform_of(item: pystac.Item) -> str:
    """Return the name of the satellite in lower case, empty where the item does not say."""
    return str(item.properties.get("platform") or "").lower()


def instant_of(item: pystac.Item) -> datetime:
    """Return the acquisition time of a scene, UTC.

    Raises:
        InvalidItem: it has none.
    """
    if item.datetime is None:
        raise InvalidItem(f"Item {item.id} has no datetime; Unveil restores single acquisitions.")
    return item.datetime.astimezone(UTC)


def cloud_cover(item: pystac.Item) -> float | None:
    """Return the cloud cover that a scene declares, percent; None where it says nothing between 0 and 100."""
    said = item.properties.get("eo:cloud_cover")
    if not isinstance(said, int | float) or isinstance(said, bool):
        return None
    return float(said) if 0 <= said <= 100 else None
