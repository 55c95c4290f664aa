"""The check of a whole catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from stac.access.s3 import S3Options
from stac.checking.assets import asset_problems
from stac.checking.items import ItemFindings, check_item
from stac.checking.places import Places
from stac.checking.report import CatalogReport, Problem, ProblemKind, in_order
from stac.checking.structure import Structure, survey
from stac.sources.hrefs import is_remote
from stac.sources.static import root_href
from stac.sources.web.patience import Patience

#: Told what is going on, how much is done, and how much there is.
Progress = Callable[[str, int, int], None]
#: Coordinates are written with seven decimals, degrees.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """How a catalog is checked."""

    #: Read every file whole, for its checksum and the layout of COGs; otherwise only ask for its size.
    checksums: bool = True
    #: Items that are checked at the same time.
    workers: int = 4
    s3: S3Options = field(default_factory=S3Options)
    patience: Patience = field(default_factory=lambda: Patience(retries=2))


def check_catalog(
    location: str, options: CheckOptions | None = None, progress: Progress = lambda *_: None
) -> CatalogReport:
    """Walk a catalog from its root and check documents, links, files and counts.

    Args:
        location: folder, path, `s3://` or `http(s)://` address of the root document or its folder.
        options: how thorough, and as whom S3 is asked.
        progress: told how far it is.

    Raises:
        UnreadableCatalog: the root is no STAC document.
        AccessRefused, SourceUnavailable: the root cannot be reached.
    """
    options = options or CheckOptions()
    places, root = Places(options.patience, options.s3), _root(location)
    progress(f"reading {root}", 0, 0)
    structure = survey(places, root)
    findings = list(_items(places, structure, options, progress))
    problems = [
        *structure.problems,
        *(problem for each in findings for problem in each.problems),
        *_duplicates(findings),
        *_orphans(places, structure),
    ]
    for place, collection in structure.collections.items():
        below = [each for each in findings if any(step.href == place for step in each.link.above)]
        problems += _extent_problems(place, collection, below)
        problems += asset_problems(places, place, collection, checksums=options.checksums)
    counts = sum((each.counts for each in findings), structure.counts)
    return CatalogReport(root, counts, in_order(problems))


def _root(location: str) -> str:
    root = root_href(location)
    return root if is_remote(root) else str(Path(root).resolve())


def _items(places: Places, structure: Structure, options: CheckOptions, progress: Progress) -> Iterator[ItemFindings]:
    total = len(structure.items)
    with ThreadPoolExecutor(options.workers) as pool:
        checked = pool.map(lambda link: check_item(places, link, checksums=options.checksums), structure.items)
        for done, findings in enumerate(checked, 1):
            progress(f"checked {findings.id}", done, total)
            yield findings


def _duplicates(findings: Iterable[ItemFindings]) -> Iterator[Problem]:
    """Yield items that share an id with another one of the same collection."""
    seen: dict[tuple[str, str], str] = {}
    for each in findings:
        collections = [step.id for step in each.link.above if step.type == "Collection"]
        first = seen.setdefault((collections[-1] if collections else "", each.id), each.link.href)
        if each.id and first != each.link.href:
            yield Problem.at(ProblemKind.DUPLICATE, each.link.href, f"{first} has the same id {each.id}")


def _orphans(places: Places, structure: Structure) -> Iterator[Problem]:
    """Yield documents that no link leads to; on web servers there is no telling."""
    for href in places.documents_below(structure.root) or ():
        if href not in structure.reached and _is_node(PurePosixPath(href)):
            yield Problem.at(
                ProblemKind.ORPHAN,
                href,
                "no link leads to it; the next run links it, unless one is publishing it just now",
            )


def _is_node(path: PurePosixPath) -> bool:
    """Tell documents of the catalog from files of products: an item is named as its folder."""
    return path.name in ("catalog.json", "collection.json") or path.stem == path.parent.name


def _extent_problems(place: str, collection: Mapping[str, Any], findings: Sequence[ItemFindings]) -> Iterator[Problem]:
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
