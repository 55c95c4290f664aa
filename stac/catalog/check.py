"""Check a whole catalog: schemas, links, files, checksums, COGs, counts."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum, unique
from pathlib import Path, PurePosixPath
from typing import Any

from stac.catalog.check_places import Places
from stac.catalog.geoparquet import MIRROR_ROLE, ids_in
from stac.catalog.tree import CONTENTS, Progress, all_links, links_of
from stac.catalog.validation import rule_problems, validate_document
from stac.errors import InvalidProduct, SourceUnavailable, StacError
from stac.io.http import RetryPolicy
from stac.io.s3 import S3Options, is_s3
from stac.io.secrets import redact
from stac.product.assets import COG_TYPE, file_info
from stac.product.cog import cog_problem
from stac.search.hrefs import is_remote, resolve
from stac.search.static import root_href

#: Items with this property are products of ours, and held to more than the schema.
_MARK = "unveil:work_id"
_DEEPEST = 16
#: Links that are followed on the way.
_DOWNWARDS = ("child", "item")
#: Coordinates are written with seven decimals, degrees.
_ROUNDING = 1e-6


@unique
class ProblemKind(StrEnum):
    """What is wrong; scripts may rely on these words."""

    #: A document is there but is not a STAC document.
    UNREADABLE = "document-unreadable"
    #: The place cannot be reached, so nothing is known about it.
    UNREACHABLE = "unreachable"
    #: A document breaks the STAC schema or the schema of an extension.
    SCHEMA = "schema"
    #: An item of ours lacks what every product has.
    RULE = "product-rule"
    #: A link leads to nothing.
    LINK_BROKEN = "link-broken"
    #: A link that every document of a catalog has is missing.
    LINK_MISSING = "link-missing"
    #: A link contradicts the place of the document in the catalog.
    LINK_WRONG = "link-wrong"
    #: A document or an id appears twice.
    DUPLICATE = "duplicate"
    #: A document lies in the catalog, but no link leads to it.
    ORPHAN = "orphan"
    ASSET_MISSING = "asset-missing"
    ASSET_SIZE = "asset-size"
    ASSET_CHECKSUM = "asset-checksum"
    #: The asset cannot be read in parts over HTTP, as viewers of COGs do.
    ASSET_RANGES = "asset-ranges"
    COG = "cog"
    #: A collection does not cover its items.
    EXTENT = "extent"
    #: A catalog or collection counts other items than it links.
    COUNT = "count"
    #: The GeoParquet mirror of a collection holds other items than the collection.
    MIRROR = "mirror"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    code: ProblemKind
    #: Path or address of the document or file that has it.
    place: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much was looked at."""

    #: Catalogs that are no collections: the root, and the nodes between a collection and its items.
    catalogs: int = 0
    collections: int = 0
    items: int = 0
    assets: int = 0
    cogs: int = 0
    #: Sum of the sizes of all assets.
    bytes: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: value + getattr(other, name) for name, value in asdict(self).items()})


@dataclass(frozen=True, slots=True)
class Step:
    """A document on the way from the root."""

    href: str
    #: `Catalog`, `Collection` or `Feature`.
    type: str
    id: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a link to an item led to."""

    href: str
    #: The documents above it, root first.
    above: tuple[Step, ...]
    counts: Counts = field(default_factory=Counts)
    #: Empty where the item cannot be read.
    id: str = ""
    #: (west, south, east, north) in degrees; west > east across the antimeridian.
    bbox: tuple[float, ...] = ()
    #: As the item says it.
    datetime: str = ""

    @property
    def collection(self) -> str:
        """Id of the collection that it is listed in, empty without one."""
        return next((step.id for step in reversed(self.above) if step.type == "Collection"), "")


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
    root = root_href(str(location))
    root = root if is_remote(root) else str(Path(root).resolve())
    check = _Check(Places(options.retry_policy, options.s3, root), root, checksums=options.checksums)
    progress(f"reading {root}", 0, 0)
    check.walk()
    found = list[Found]()
    with ThreadPoolExecutor(options.workers) as pool:
        for each in pool.map(lambda link: check.item(*link), check.items):
            found.append(each)
            progress(f"checked {each.id}", len(found), len(check.items))
    check.whole(found)
    # By place, so that two checks of the same catalog say the same.
    ordered = sorted(check.problems, key=lambda problem: (problem.place, problem.code, problem.message))
    return CatalogReport(root, sum((each.counts for each in found), check.counts), tuple(ordered))


class _Check:
    """One check, and what it has found so far; `item` may be used by several threads."""

    def __init__(self, places: Places, root: str, *, checksums: bool) -> None:
        self.problems: set[Problem] = set()
        self.counts = Counts()
        #: Items that links lead to: where each should be, and the documents above it, root first.
        self.items: list[tuple[str, tuple[Step, ...]]] = []
        self._places, self._root, self._checksums = places, root, checksums
        #: Collections, and how many items a catalog or collection says it has, by place.
        self._collections: dict[str, Mapping[str, Any]] = {}
        self._declared: dict[str, int] = {}
        #: Every place that a link leads to.
        self._reached = {root}

    def note(self, code: ProblemKind, place: str, message: str) -> None:
        """Remember a problem, without the secrets of an address."""
        self.problems.add(Problem(code, redact(place), redact(message)))

    def walk(self) -> None:
        """Go from the root over `child` links to any depth.

        Raises:
            UnreadableCatalog: the root is not a STAC document.
            AccessRefused, SourceUnavailable: the root cannot be reached.
        """
        waiting: list[tuple[str, tuple[Step, ...]]] = [(self._root, ())]
        while waiting:
            href, above = waiting.pop()
            document = self._read(href, above[-1].href) if above else self._places.read(href)
            if document is None:
                continue
            step = Step(href, str(document.get("type")), str(document.get("id")))
            if not self._is_sound(step, document, above):
                continue
            path = (*above, step)
            if len(path) > _DEEPEST:
                self.note(ProblemKind.LINK_WRONG, href, f"it lies deeper than {_DEEPEST} levels")
                continue
            self.items += [(place, path) for place in self._targets(step, document, "item")]
            waiting += [(place, path) for place in reversed(list(self._targets(step, document, "child")))]

    def item(self, href: str, above: tuple[Step, ...]) -> Found:
        """Check an item and its files.

        Args:
            href: where it should be.
            above: the documents above it, root first.
        """
        document = self._read(href, above[-1].href)
        if document is None:
            return Found(href, above)
        if not self._keeps_schema(href, document):
            return Found(href, above, Counts(items=1))
        assets = document["assets"].values()
        cogs = sum(asset.get("type") == COG_TYPE for asset in assets)
        size = sum(number for asset in assets if isinstance(number := asset.get("file:size"), int))
        when, box = str(document["properties"].get("datetime") or ""), tuple(document.get("bbox") or ())
        counts = Counts(items=1, assets=len(assets), cogs=cogs, bytes=size)
        found = Found(href, above, counts, document["id"], box, when)
        # Items of other tools are held to the schemas alone.
        for problem in rule_problems(document) if _MARK in document["properties"] else ():
            self.note(ProblemKind.RULE, href, problem)
        if found.collection and document.get("collection") != found.collection:
            named = f"it names collection {document.get('collection')}, not {found.collection}"
            self.note(ProblemKind.LINK_WRONG, href, named)
        self._links(Step(href, "Feature", found.id), document, above)
        self._assets(href, document)
        return found

    def whole(self, found: Sequence[Found]) -> None:
        """Compare all items with each other, with the files that are there, and with what nodes say of them."""
        seen: dict[tuple[str, str], str] = {}
        below: dict[str, list[Found]] = defaultdict(list)
        for each in found:
            first = seen.setdefault((each.collection, each.id), each.href)
            if each.id and first != each.href:
                self.note(ProblemKind.DUPLICATE, each.href, f"{first} has the same id {each.id}")
            for step in each.above:
                below[step.href].append(each)
        # On web servers it is unknown what lies there.
        for href in self._places.documents_below(self._root) or ():
            if href not in self._reached and _is_node(PurePosixPath(href)):
                lost = "no link leads to it; the next run links it, unless one is publishing it just now"
                self.note(ProblemKind.ORPHAN, href, lost)
        for place, declared in self._declared.items():
            if declared != (linked := len(below[place])):
                self.note(ProblemKind.COUNT, place, f"it declares {declared} items below it, but links {linked}")
        for place, collection in self._collections.items():
            self._extent(place, collection, below[place])
            self._assets(place, collection)
            self._mirror(place, collection, below[place])

    def _read(self, href: str, linked_by: str) -> dict[str, Any] | None:
        """Return the document behind a link, None where it cannot be read."""
        try:
            return self._places.read(href)
        except StacError as error:
            try:
                gone = self._places.size(href) is None
            except StacError:
                gone = False
            unreachable = isinstance(error, SourceUnavailable)
            if gone:
                self.note(ProblemKind.LINK_BROKEN, linked_by, f"its link to {href} leads to nothing")
            else:
                self.note(ProblemKind.UNREACHABLE if unreachable else ProblemKind.UNREADABLE, href, str(error))
            return None

    def _keeps_schema(self, place: str, document: Mapping[str, Any]) -> bool:
        try:
            validate_document(document)
        except InvalidProduct as error:
            self.note(ProblemKind.SCHEMA, place, str(error))
            return False
        return True

    def _is_sound(self, step: Step, document: Mapping[str, Any], above: tuple[Step, ...]) -> bool:
        """Count a node and note its own problems; return whether what it links can be followed."""
        if step.type not in ("Catalog", "Collection"):
            self.note(ProblemKind.LINK_WRONG, step.href, "a child link leads here, to no catalog")
            return False
        is_collection = step.type == "Collection"
        self.counts += Counts(catalogs=not is_collection, collections=is_collection)
        if self._keeps_schema(step.href, document) and is_collection:
            self._collections[step.href] = document
        if isinstance(contents := document.get(CONTENTS), dict) and "items" in contents:
            self._declared[step.href] = contents["items"]
        self._links(step, document, above)
        return True

    def _targets(self, step: Step, document: Mapping[str, Any], rel: str) -> Iterator[str]:
        """Yield where the links of one kind lead, each place once in the whole catalog."""
        for link in links_of(document, rel):
            try:
                place = resolve(step.href, link.get("href"))
            except StacError as error:
                self.note(ProblemKind.LINK_WRONG, step.href, str(error))
                continue
            if place in self._reached:
                self.note(ProblemKind.DUPLICATE, step.href, f"{place} is linked twice")
                continue
            self._reached.add(place)
            yield place

    def _links(self, step: Step, document: Mapping[str, Any], above: Sequence[Step]) -> None:
        """Note what is wrong with the links of a document that lies below `above`, root first."""
        resolved: dict[str, list[str]] = defaultdict(list)
        for link in all_links(document):
            rel = str(link.get("rel"))
            if rel in _DOWNWARDS:
                continue
            try:
                resolved[rel].append(resolve(step.href, link.get("href")))
            except StacError as error:
                self.note(ProblemKind.LINK_WRONG, step.href, f"{rel}: {error}")
        self._upwards(step, resolved, above)
        for target in resolved.pop("self", []):
            # A copy in a folder may name the original on a server.
            if _kind(target) == _kind(step.href) and target != step.href:
                self.note(ProblemKind.LINK_WRONG, step.href, f"its self link says {target}")
        known = {each.href for each in (*above, step)}
        # What lies outside of the catalog is not asked.
        ours = posixpath.dirname(self._root) + "/"
        for rel, targets in resolved.items():
            for target in targets:
                if target not in known and target.startswith(ours):
                    self._existing(step, rel, target)

    def _upwards(self, step: Step, resolved: Mapping[str, list[str]], above: Sequence[Step]) -> None:
        """Note what is wrong with the links to root, parent and collection."""
        wanted: dict[str, set[str]] = {"root": {self._root}}
        if above:
            # An item may name its collection or the node in between that lists it.
            wanted["parent"] = {each.href for each in above} if step.type == "Feature" else {above[-1].href}
        collections = [each.href for each in above if each.type == "Collection"]
        if step.type == "Feature" and collections:
            wanted["collection"] = {collections[-1]}
        for rel, places in wanted.items():
            if not resolved.get(rel):
                self.note(ProblemKind.LINK_MISSING, step.href, f"it has no {rel} link")
            for target in resolved.get(rel, []):
                if target not in places:
                    wrong = f"its {rel} link leads to {target}, not to {max(places)}"
                    self.note(ProblemKind.LINK_WRONG, step.href, wrong)

    def _existing(self, step: Step, rel: str, target: str) -> None:
        try:
            if self._places.size(target) is None:
                self.note(ProblemKind.LINK_BROKEN, step.href, f"its {rel} link to {target} leads to nothing")
        except StacError as error:
            self.note(ProblemKind.UNREACHABLE, target, str(error))

    def _assets(self, base: str, document: Mapping[str, Any]) -> None:
        """Note what is wrong with the assets of an item or collection that keeps the STAC schema."""
        for key, asset in document.get("assets", {}).items():
            try:
                place = resolve(base, asset["href"])
                # What lies on a server, a catalog in a folder only points to.
                if is_remote(base) or not is_remote(place):
                    self._asset(base, place, key, asset)
            except StacError as error:
                self.note(ProblemKind.UNREACHABLE, base, f"asset {key}: {error}")

    def _asset(self, base: str, place: str, key: str, asset: Mapping[str, Any]) -> None:
        size, wanted = self._places.size(place), asset.get("file:size")
        if size is None:
            self.note(ProblemKind.ASSET_MISSING, base, f"asset {key} is missing ({place})")
        elif size >= 0 and wanted not in (None, size):
            self.note(ProblemKind.ASSET_SIZE, place, f"asset {key} has {size} bytes, its item says {wanted}")
        elif asset.get("type") == COG_TYPE and not self._places.has_ranges(place):
            unranged = f"asset {key} cannot be read in parts; serve it with byte ranges"
            self.note(ProblemKind.ASSET_RANGES, place, unranged)
        elif self._checksums:
            with self._places.at_hand(place) as file:
                checksum = asset.get("file:checksum")
                if checksum is not None and file_info(file)["file:checksum"] != checksum:
                    self.note(ProblemKind.ASSET_CHECKSUM, place, f"asset {key} differs from its checksum")
                if asset.get("type") == COG_TYPE and (problem := cog_problem(file)):
                    self.note(ProblemKind.COG, place, f"asset {key} {problem.replace(str(file), place)}")

    def _mirror(self, place: str, collection: Mapping[str, Any], found: Iterable[Found]) -> None:
        """Note when the mirrors of a collection hold other items than the collection links."""
        hrefs = [a["href"] for a in collection.get("assets", {}).values() if MIRROR_ROLE in a.get("roles", ())]
        held = list[str]()
        for mirror in (resolve(place, href) for href in hrefs):
            try:
                if self._places.size(mirror) is None:
                    return  # a missing asset is reported already
                with self._places.at_hand(mirror) as file:
                    held += ids_in(file)
            except (StacError, OSError, ValueError) as error:
                self.note(
                    ProblemKind.MIRROR,
                    mirror,
                    f"it cannot be read ({error}); remove it, and the next run writes it again",
                )
                return
        # An item that cannot be read is in the mirror by the name of its document.
        linked = {each.id or PurePosixPath(each.href).stem for each in found}
        lacking, others = len(linked.difference(held)), len(held) - len(linked.intersection(held))
        if hrefs and (lacking or others):
            where = f"{place}: its GeoParquet files" if len(hrefs) > 1 else resolve(place, hrefs[0])
            wrong = f"lacks {lacking} items of the collection and holds {others} others"
            self.note(ProblemKind.MIRROR, where, wrong)

    def _extent(self, place: str, collection: Mapping[str, Any], found: Iterable[Found]) -> None:
        """Note each item that lies outside the extent of its collection, in space or time."""
        box = _flat(collection["extent"]["spatial"]["bbox"][0])
        start, end = collection["extent"]["temporal"]["interval"][0]
        for each in found:
            if each.bbox and not _covers(box, _flat(each.bbox)):
                self.note(ProblemKind.EXTENT, place, f"its box does not cover item {each.id}")
            if each.datetime and not _during(each.datetime, start, end):
                self.note(ProblemKind.EXTENT, place, f"its interval does not cover item {each.id}")


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


def _is_node(path: PurePosixPath) -> bool:
    """Distinguish documents of the catalog from files of products: an item is named as its folder."""
    return path.name in ("catalog.json", "collection.json") or path.stem == path.parent.name


def _kind(href: str) -> str:
    return "s3" if is_s3(href) else "web" if is_remote(href) else "file"
