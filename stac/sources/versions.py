"""One scene delivered twice: as the same item again, or processed anew; the newest is kept."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta

import pystac

from stac.grid import grid_code
from stac.sources.base import Skipped
from stac.sources.footprints import footprint

#: Two processings of one scene differ this much at most in their acquisition time.
_SAME_TIME = timedelta(seconds=30)
#: Two halves of a square taken in one pass hardly overlap; two processings of one scene nearly coincide.
_SAME_GROUND = 0.5
_BASELINES = ("s2:processing_baseline", "processing:version")
_GENERATED = ("s2:generation_time", "processing:datetime", "created", "updated")

#: ESA's product name (Sentinel-2 Products Specification Document, section 3.4.1.1): baseline and generation time.
_PRODUCT = re.compile(r"_MSIL[12][AC]_\d{8}T\d{6}_N(\d\d)(\d\d)_R\d{3}_T\w{5}_(\d{8}T\d{6})")

Rank = tuple[str, str, str]


def newest_versions(items: Iterable[pystac.Item]) -> tuple[list[pystac.Item], list[Skipped]]:
    """Return one item for each scene, in the order given, and why the others were passed over.

    A scene is what one platform took of one grid square in one pass; its versions are from the same half
    minute and cover the same ground. The highest processing baseline wins, then the latest generation time,
    then the last id in the alphabet.
    """
    kept: dict[str, pystac.Item] = {}
    passed: list[Skipped] = []
    by_square: dict[tuple[str, str], list[pystac.Item]] = {}
    ordered = list(items)
    for item in sorted(ordered, key=rank, reverse=True):
        newer = by_square.setdefault((_platform(item), _square(item)), [])
        winner = next((other for other in newer if _same_scene(item, other)), None)
        if winner is None:
            newer.append(item)
            kept[item.id] = item
        elif winner.id == item.id:
            passed.append(
                Skipped(item.id, f"Item {item.id} was delivered twice; it is used once.", superseded_by=item.id)
            )
        else:
            reason = f"Item {item.id} is an older version of {winner.id} ({_version(item)}); it is not used."
            passed.append(Skipped(item.id, reason, superseded_by=winner.id))
    return [item for item in ordered if kept.get(item.id) is item], passed


def rank(item: pystac.Item) -> Rank:
    """Return the sort key of a version: baseline, generation time, id; the largest is the newest."""
    named = _PRODUCT.search(item.id)
    baseline, generated = (f"{named[1]}.{named[2]}", f"{named[3]}Z") if named else ("", "")
    return _first(item, _BASELINES) or baseline, _instant(_first(item, _GENERATED) or generated), item.id


def _version(item: pystac.Item) -> str:
    baseline, generated, _ = rank(item)
    return f"baseline {baseline or 'unknown'}, generated {generated or 'unknown'}"


def _first(item: pystac.Item, names: Iterable[str]) -> str:
    return next((str(item.properties[name]) for name in names if item.properties.get(name)), "")


def _instant(text: str) -> str:
    """Return a time in one notation, so that times compare as text; what is no time as it is."""
    try:
        return datetime.fromisoformat(text).isoformat()
    except ValueError:
        return text


def _platform(item: pystac.Item) -> str:
    return str(item.properties.get("platform", "")).lower()


def _square(item: pystac.Item) -> str:
    path, row = (item.properties.get(f"landsat:wrs_{name}") for name in ("path", "row"))
    return f"WRS2-{path}{row}" if path and row else grid_code(item)


def _same_scene(one: pystac.Item, other: pystac.Item) -> bool:
    if one.datetime is None or other.datetime is None or abs(one.datetime - other.datetime) > _SAME_TIME:
        return False
    first, second = footprint(one), footprint(other)
    smaller = min(first.area, second.area)
    return bool(smaller <= 0 or first.intersection(second).area >= _SAME_GROUND * smaller)
