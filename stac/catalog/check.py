"""Check a whole catalog: schemas, links, files, checksums, COGs, counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from stac.catalog.check_places import Places
from stac.catalog.check_structure import (
    Counts,
    ItemLink,
    Problem,
    ProblemKind,
    Step,
    Structure,
    link_problems,
    schema_problem,
    survey,
    unread,
)
from stac.catalog.geoparquet import MIRROR_ROLE, ids_in
from stac.catalog.validation import rule_problems
from stac.errors import StacError
from stac.io.http import RetryPolicy
from stac.io.s3 import S3Options
from stac.product.assets import COG_TYPE, file_info
from stac.product.cog import cog_problem
from stac.search.hrefs import is_remote, resolve
from stac.search.static import root_href

#: Items with this property are products of ours, and held to more than the schema.
_MARK = "unveil:work_id"


def asset_problems(places: Places, base: str, document: Mapping[str, Any], *, checksums: bool) -> Iterator[Problem]:
    """Yield what is wrong with the assets of an item or collection.

    Args:
        places: reads the files.
        base: where the document lies.
        document: it keeps the STAC schema.
        checksums: whether files are read whole, for their checksums and the layout of COGs.
    """
    for key, asset in document.get("assets", {}).items():
        yield from _asset_problems(places, base, key, asset, checksums=checksums)


def _asset_problems(
    places: Places, base: str, key: str, asset: Mapping[str, Any], *, checksums: bool
) -> Iterator[Problem]:
    try:
        place = resolve(base, asset["href"])
        if is_remote(place) and not is_remote(base):
            return  # what lies on a server, a catalog in a folder only points to
        found = places.size(place)
        if found is None:
            yield Problem.at(ProblemKind.ASSET_MISSING, base, f"asset {key} is missing ({place})")
        elif found >= 0 and asset.get("file:size", found) != found:
            yield Problem.at(
                ProblemKind.ASSET_SIZE, place, f"asset {key} has {found} bytes, its item says {asset['file:size']}"
            )
        elif asset.get("type") == COG_TYPE and not places.has_ranges(place):
            yield Problem.at(
                ProblemKind.ASSET_RANGES, place, f"asset {key} cannot be read in parts; serve it with byte ranges"
            )
        elif checksums:
            yield from _content_problems(places, place, key, asset)
    except StacError as error:
        yield Problem.at(ProblemKind.UNREACHABLE, base, f"asset {key}: {error}")


def _content_problems(places: Places, place: str, key: str, asset: Mapping[str, Any]) -> Iterator[Problem]:
    with places.at_hand(place) as file:
        wanted = asset.get("file:checksum")
        if wanted is not None and file_info(file)["file:checksum"] != wanted:
            yield Problem.at(ProblemKind.ASSET_CHECKSUM, place, f"asset {key} differs from its checksum")
        if asset.get("type") == COG_TYPE and (problem := cog_problem(file)):
            yield Problem.at(ProblemKind.COG, place, f"asset {key} {problem.replace(str(file), place)}")


@dataclass(frozen=True, slots=True)
class ItemFindings:
    """What the check of one item found."""

    link: ItemLink
    problems: tuple[Problem, ...]
    counts: Counts = field(default_factory=Counts)
    id: str = ""
    #: (west, south, east, north) in degrees; west > east across the antimeridian.
    bbox: tuple[float, ...] = ()
    #: As the item says it.
    datetime: str = ""


def check_item(places: Places, link: ItemLink, *, checksums: bool) -> ItemFindings:
    """Check an item and its files.

    Args:
        places: reads them.
        link: where the item is, and what lies above it.
        checksums: whether files are read whole, for their checksums and the layout of COGs.
    """
    try:
        document = places.read(link.href)
    except StacError as error:
        return ItemFindings(link, (unread(places, link.href, link.above[-1].href, error),))
    if (problem := schema_problem(link.href, document)) is not None:
        return ItemFindings(link, (problem,), Counts(items=1))
    problems = [*_rule_problems(link.href, document), *_membership(link, document)]
    problems += link_problems(places, Step(link.href, "Feature", document["id"]), document, link.above)
    problems += asset_problems(places, link.href, document, checksums=checksums)
    when = str(document["properties"].get("datetime") or "")
    return ItemFindings(
        link, tuple(problems), _counts(document), document["id"], tuple(document.get("bbox") or ()), when
    )


def _rule_problems(place: str, item: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what an item of ours lacks; items of other tools are held to the schemas alone."""
    if _MARK in item["properties"]:
        yield from (Problem.at(ProblemKind.RULE, place, problem) for problem in rule_problems(item))


def _counts(item: Mapping[str, Any]) -> Counts:
    assets = item["assets"].values()
    cogs = sum(asset.get("type") == COG_TYPE for asset in assets)
    size = sum(int(asset.get("file:size") or 0) for asset in assets)
    return Counts(items=1, assets=len(assets), cogs=cogs, bytes=size)


def _membership(link: ItemLink, item: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem when the item names another collection than the one that lists it."""
    collections = [step.id for step in link.above if step.type == "Collection"]
    if collections and item.get("collection") != collections[-1]:
        yield Problem.at(
            ProblemKind.LINK_WRONG, link.href, f"it names collection {item.get('collection')}, not {collections[-1]}"
        )


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
                return  # a missing asset is reported already
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


@dataclass(frozen=True, slots=True)
class CatalogReport:
    """The result of a check."""

    catalog: str
    counts: Counts
    problems: tuple[Problem, ...]

    @property
    def valid(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def document(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "catalog": self.catalog,
            "valid": self.valid,
            "counts": asdict(self.counts),
            "problems": [asdict(problem) for problem in self.problems],
        }


#: Called with what is going on, how much is done, and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """How a catalog is checked."""

    #: Read every file whole, for its checksum and the layout of COGs; otherwise only ask for its size.
    checksums: bool = True
    #: Items that are checked at the same time.
    workers: int = 4
    s3: S3Options = field(default_factory=S3Options)
    retry_policy: RetryPolicy = field(default_factory=lambda: RetryPolicy(retries=2))


def check_catalog(
    location: str | Path, options: CheckOptions | None = None, progress: Progress = lambda *_: None
) -> CatalogReport:
    """Check, from the root of a catalog, documents, links, files and counts.

    Args:
        location: folder, path, `s3://` or `http(s)://` address of the root document or its folder.
        options: how thorough, and as whom S3 is asked.
        progress: called with how far it is.

    Raises:
        UnreadableCatalog: the root is not a STAC document.
        AccessRefused, SourceUnavailable: the root cannot be reached.
    """
    options = options or CheckOptions()
    root = _root(str(location))
    places = Places(options.retry_policy, options.s3, root)
    progress(f"reading {root}", 0, 0)
    structure = survey(places, root)
    findings = list(_items(places, structure, options, progress))
    problems = [
        *structure.problems,
        *(problem for each in findings for problem in each.problems),
        *_duplicates(findings),
        *_orphans(places, structure),
    ]
    below = _by_node(findings)
    problems += _count_problems(structure, below)
    for place, collection in structure.collections.items():
        problems += extent_problems(place, collection, below.get(place, ()))
        problems += asset_problems(places, place, collection, checksums=options.checksums)
        problems += mirror_problems(places, place, collection, below.get(place, ()))
    counts = sum((each.counts for each in findings), structure.counts)
    # By place, so that two checks of the same catalog say the same.
    ordered = sorted(set(problems), key=lambda problem: (problem.place, problem.code, problem.message))
    return CatalogReport(root, counts, tuple(ordered))


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
    """Yield documents that no link leads to; on web servers this is unknown."""
    for href in places.documents_below(structure.root) or ():
        if href not in structure.reached and _is_node(PurePosixPath(href)):
            yield Problem.at(
                ProblemKind.ORPHAN,
                href,
                "no link leads to it; the next run links it, unless one is publishing it just now",
            )


def _is_node(path: PurePosixPath) -> bool:
    """Distinguish documents of the catalog from files of products: an item is named as its folder."""
    return path.name in ("catalog.json", "collection.json") or path.stem == path.parent.name


def _by_node(findings: Iterable[ItemFindings]) -> dict[str, list[ItemFindings]]:
    """Return what was found below each catalog and collection, by its place."""
    below: dict[str, list[ItemFindings]] = defaultdict(list)
    for each in findings:
        for step in each.link.above:
            below[step.href].append(each)
    return below


def _count_problems(structure: Structure, below: Mapping[str, Sequence[ItemFindings]]) -> Iterator[Problem]:
    """Yield nodes that count other items than they link."""
    for place, told in structure.told.items():
        if told != (linked := len(below.get(place, ()))):
            yield Problem.at(ProblemKind.COUNT, place, f"it says that {told} items lie below it, but links {linked}")


__all__ = ["CatalogReport", "CheckOptions", "Counts", "Problem", "ProblemKind", "check_catalog"]
