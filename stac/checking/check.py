"""The check of a whole catalog."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from stac.access.s3 import S3Options
from stac.checking.assets import asset_problems
from stac.checking.collections import extent_problems, mirror_problems
from stac.checking.items import ItemFindings, check_item
from stac.checking.places import Places
from stac.checking.report import CatalogReport, Problem, ProblemKind, in_order
from stac.checking.structure import Structure, survey
from stac.sources.hrefs import is_remote
from stac.sources.static import root_href
from stac.sources.web.patience import Patience

#: Told what is going on, how much is done, and how much there is.
Progress = Callable[[str, int, int], None]


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
    root = _root(location)
    places = Places(options.patience, options.s3, root)
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
