"""What an item says of its scene, whatever its catalog calls it, and which scenes are of one pass, a date of a cell."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pystac

from stac.errors import InvalidItem
from stac.grid.cell import grid_code

#: Scenes further apart are of two passes: a satellite in a low orbit comes by every 95 minutes at the earliest.
_SAME_PASS = timedelta(minutes=30)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BASELINES = (
    "s2:processing_baseline", "sentinel:processing_baseline", "sentinel2:processing_baseline", "processing:version",
    "processing:baseline",
)  # fmt: skip
_GENERATED = (
    "s2:generation_time", "sentinel:generation_time", "sentinel2:generation_time", "processing:datetime",
    "landsat:processing_date", "landsat:date_product_generated", "landsat:product_generated",
)  # fmt: skip
#: When a catalog wrote its item: says less about pixels than the times above.
_WRITTEN = ("created", "updated", "published")
_SEQUENCES = ("s2:sequence", "sentinel:sequence", "earthsearch:sequence")
#: ESA's product name (Sentinel-2 Products Specification Document, section 3.4.1.1): baseline and generation time.
_ESA = re.compile(r"_MSIL[12][AC]_\d{8}T\d{6}_N(\d\d)(\d\d)_R\d{3}_T\w{5}_(\d{8}T\d{6})")
#: Names that leave the baseline out: the time alone.
_ESA_TIME = re.compile(r"_MSIL[12][AC]_\d{8}T\d{6}_R\d{3}_T\w{5}_(\d{8}T\d{6})")
#: USGS's product name: date of processing.
_USGS = re.compile(r"\bL[COTEM]0[4-9]_L[12][A-Z]{2}_\d{6}_\d{8}_(\d{8})_0[12]_")
#: Names of Earth Search: the sequence before the level.
_COG = re.compile(r"S2[A-D]_\w{5}_\d{8}_(\d+)_L[12][AC]")
#: Products made by hand with Sen2Cor carry 99.99, whatever their baseline.
_UNKNOWN_BASELINE = 99
_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)
Rank = tuple[tuple[int, ...], datetime, int, datetime, str]


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


def baseline_of(item: pystac.Item) -> tuple[int, ...]:
    """Return the processing baseline, `(5, 9)` for 05.09, from a property, else from the product's name; () unknown."""
    for name in _BASELINES:
        if numbers := version_numbers(item.properties.get(name)):
            return () if numbers[0] == _UNKNOWN_BASELINE else numbers
    found = _ESA.search(_names(item)) or re.search(r"_N(\d{2})(\d{2})_", _names(item))
    return (int(found[1]), int(found[2])) if found and int(found[1]) != _UNKNOWN_BASELINE else ()


def version_numbers(value: Any) -> tuple[int, ...]:
    """Return a version as numbers: `(5, 10)` for "05.10", "N0510" or 5.1; () for what is not a version."""
    if isinstance(value, float):
        value = f"{value:.2f}"
    text = str(value).strip().lower().removeprefix("v").removeprefix("n") if isinstance(value, str | int) else ""
    if re.fullmatch(r"\d{4}", text):
        return int(text[:2]), int(text[2:])
    return tuple(int(part) for part in text.split(".")) if re.fullmatch(r"\d{1,9}(\.\d{1,9}){0,4}", text) else ()


def generated(item: pystac.Item) -> datetime | None:
    """Return when the product was made, from properties or its name; None where neither says."""
    found = _first(item, _GENERATED)
    if found is not None:
        return found
    named = _ESA.search(_names(item))
    text = named[3] if named else ""
    if not text and (named := _ESA_TIME.search(_names(item)) or _USGS.search(_names(item))):
        text = named[1]
    return _instant(text)


def rank(item: pystac.Item) -> Rank:
    """Return the sort key of a version, the largest is the newest: baseline, times, sequence, id."""
    written = _first(item, _WRITTEN)
    made = generated(item) or written
    return baseline_of(item), made or _LONG_AGO, _sequence(item), written or _LONG_AGO, item.id


def described(item: pystac.Item) -> str:
    """Return a version in a few words."""
    numbers, made = baseline_of(item), generated(item) or _first(item, _WRITTEN)
    baseline = ".".join(f"{number:02d}" for number in numbers) or "unknown"
    return f"baseline {baseline}, generated {made.isoformat() if made else 'unknown'}"


def _names(item: pystac.Item) -> str:
    names = ("s2:product_uri", "sentinel:product_id", "landsat:product_id")
    return " ".join([*(str(item.properties.get(name, "")) for name in names), item.id])


def _sequence(item: pystac.Item) -> int:
    for name in _SEQUENCES:
        if (text := str(item.properties.get(name, ""))).isdecimal():
            return int(text[:18])
    found = _COG.search(item.id)
    return int(found[1][:18]) if found else 0


def _first(item: pystac.Item, names: Iterable[str]) -> datetime | None:
    """Return the latest of the times that some properties hold."""
    times = (_instant(item.properties.get(name)) for name in names)
    return max((time for time in times if time is not None), default=None)


def _instant(value: Any) -> datetime | None:
    """Return a time in UTC; None for what is not one."""
    if isinstance(value, datetime):
        value = value.isoformat()
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
        if found is None:
            return None
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
