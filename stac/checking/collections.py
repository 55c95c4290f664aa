"""Whether a collection says the truth about its items: extent in space and time, and its GeoParquet mirror."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from stac.checking.items import ItemFindings
from stac.checking.places import Places
from stac.checking.report import Problem, ProblemKind
from stac.errors import StacError
from stac.geoparquet import MIRROR_ROLE, ids_in
from stac.sources.hrefs import resolve

#: Coordinates are written with seven decimals, degrees.
_ROUNDING = 1e-6


def mirror_problems(
    places: Places, place: str, collection: Mapping[str, Any], findings: Sequence[ItemFindings]
) -> Iterator[Problem]:
    """Yield a problem when the mirrors of a collection hold other items than the collection links."""
    hrefs = [a["href"] for a in collection.get("assets", {}).values() if MIRROR_ROLE in a.get("roles", ())]
    if not hrefs:
        return
    held = list[str]()
    for mirror in (resolve(place, href) for href in hrefs):
        try:
            if places.size(mirror) is None:
                return  # a missing asset is told already
            with places.at_hand(mirror) as file:
                held += ids_in(file)
        except (StacError, OSError, ValueError) as error:
            yield Problem.at(ProblemKind.MIRROR, mirror, f"it cannot be read ({error})")
            return
    # An item that cannot be read is in the mirror by the name of its document.
    linked = {each.id or PurePosixPath(each.link.href).stem for each in findings}
    lacking, others = len(linked.difference(held)), len(held) - len(linked.intersection(held))
    if lacking or others:
        where = f"{place}: its GeoParquet files" if len(hrefs) > 1 else resolve(place, hrefs[0])
        yield Problem.at(
            ProblemKind.MIRROR, where, f"lacks {lacking} items of the collection and holds {others} others"
        )


def extent_problems(place: str, collection: Mapping[str, Any], findings: Sequence[ItemFindings]) -> Iterator[Problem]:
    """Yield a problem for each item that lies outside the extent of its collection, in space or time."""
    west, south, east, north = _flat(collection["extent"]["spatial"]["bbox"][0])
    start, end = collection["extent"]["temporal"]["interval"][0]
    for each in findings:
        if each.bbox and not _covers((west, south, east, north), _flat(each.bbox)):
            yield Problem.at(ProblemKind.EXTENT, place, f"its box does not cover item {each.id}")
        if each.datetime and not _during(each.datetime, start, end):
            yield Problem.at(ProblemKind.EXTENT, place, f"its interval does not cover item {each.id}")


def _flat(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    """Return a box without heights."""
    west, south, east, north = (*bbox[: len(bbox) // 2][:2], *bbox[len(bbox) // 2 :][:2])
    return west, south, east, north


def _covers(outer: tuple[float, float, float, float], inner: tuple[float, float, float, float]) -> bool:
    if inner[1] < outer[1] - _ROUNDING or inner[3] > outer[3] + _ROUNDING:
        return False
    if outer[0] > outer[2] or inner[0] > inner[2]:  # across the antimeridian: only the whole circle is sure to cover
        return outer[2] - outer[0] >= 360 - _ROUNDING or outer[0] > outer[2]
    return inner[0] >= outer[0] - _ROUNDING and inner[2] <= outer[2] + _ROUNDING


def _during(moment: str, start: str | None, end: str | None) -> bool:
    when = datetime.fromisoformat(moment)
    return (start is None or datetime.fromisoformat(start) <= when) and (
        end is None or when <= datetime.fromisoformat(end)
    )
