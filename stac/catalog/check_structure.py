"""Check collections and links of a catalog against what is stored; the records of what is wrong."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum, unique
from typing import Any

from stac.catalog.check_places import Places
from stac.catalog.tree import CONTENTS
from stac.catalog.validation import validate_document
from stac.errors import InvalidProduct, SourceUnavailable, StacError
from stac.io.s3 import is_s3
from stac.io.secrets import redact
from stac.search.hrefs import is_remote, resolve


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

    @classmethod
    def at(cls, code: ProblemKind, place: str, message: str) -> Problem:
        """Return a problem whose texts hold no secrets of an address."""
        return cls(code, redact(place), redact(message))


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


def schema_problem(place: str, document: Mapping[str, Any]) -> Problem | None:
    """Return what breaks the STAC schema, None when nothing does."""
    try:
        validate_document(document)
    except InvalidProduct as error:
        return Problem.at(ProblemKind.SCHEMA, place, str(error))
    return None


_DEEPEST = 16
_CONTAINERS = ("Catalog", "Collection")


@dataclass(frozen=True, slots=True)
class ItemLink:
    """Where an item should be, and the documents above it, root first."""

    href: str
    above: tuple[Step, ...]


@dataclass(slots=True)
class Structure:
    """What was found from the root on."""

    root: str
    counts: Counts = field(default_factory=Counts)
    items: list[ItemLink] = field(default_factory=list)
    #: Collections by place.
    collections: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    #: How many items a catalog or collection says it has, by place.
    told: dict[str, int] = field(default_factory=dict)
    #: Every place that a link leads to.
    reached: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)


def survey(places: Places, root: str) -> Structure:
    """Go from the root over `child` links to any depth.

    Raises:
        UnreadableCatalog: the root is not a STAC document.
        AccessRefused, SourceUnavailable: the root cannot be reached.
    """
    found = Structure(root, reached={root})
    waiting: list[tuple[str, tuple[Step, ...]]] = [(root, ())]
    while waiting:
        href, above = waiting.pop()
        document = places.read(href) if not above else _read(places, href, above, found)
        if document is None:
            continue
        step = Step(href, str(document.get("type")), str(document.get("id")))
        if not _is_sound(places, step, document, above, found):
            continue
        path = (*above, step)
        if len(path) > _DEEPEST:
            found.problems.append(Problem.at(ProblemKind.LINK_WRONG, href, f"it lies deeper than {_DEEPEST} levels"))
            continue
        found.items += [ItemLink(place, path) for place in _targets(found, step, document, "item")]
        waiting += [(place, path) for place in reversed(list(_targets(found, step, document, "child")))]
    return found


def _read(places: Places, href: str, above: tuple[Step, ...], found: Structure) -> dict[str, Any] | None:
    try:
        return places.read(href)
    except StacError as error:
        found.problems.append(unread(places, href, above[-1].href, error))
        return None


def unread(places: Places, href: str, linked_by: str, error: StacError) -> Problem:
    """Return what it means that a document behind a link could not be read."""
    try:
        gone = places.size(href) is None
    except StacError:
        gone = False
    if gone:
        return Problem.at(ProblemKind.LINK_BROKEN, linked_by, f"its link to {href} leads to nothing")
    kind = ProblemKind.UNREACHABLE if isinstance(error, SourceUnavailable) else ProblemKind.UNREADABLE
    return Problem.at(kind, href, str(error))


def _is_sound(
    places: Places, step: Step, document: Mapping[str, Any], above: tuple[Step, ...], found: Structure
) -> bool:
    """Count a node and note its own problems; return whether what it links can be followed."""
    if step.type not in _CONTAINERS:
        found.problems.append(Problem.at(ProblemKind.LINK_WRONG, step.href, "a child link leads here, to no catalog"))
        return False
    is_collection = step.type == "Collection"
    found.counts += Counts(catalogs=not is_collection, collections=is_collection)
    if (problem := schema_problem(step.href, document)) is not None:
        found.problems.append(problem)
        if not isinstance(document.get("links"), list):
            return False
    elif is_collection:
        found.collections[step.href] = document
    if isinstance(contents := document.get(CONTENTS), dict) and "items" in contents:
        found.told[step.href] = contents["items"]
    found.problems += link_problems(places, step, document, above)
    return True


def _targets(found: Structure, step: Step, document: Mapping[str, Any], rel: str) -> Iterator[str]:
    """Yield where the links of one kind lead, each place once in the whole catalog."""
    for link in document["links"]:
        if not isinstance(link, dict) or link.get("rel") != rel:
            continue
        try:
            place = resolve(step.href, link.get("href"))
        except StacError as error:
            found.problems.append(Problem.at(ProblemKind.LINK_WRONG, step.href, str(error)))
            continue
        if place in found.reached:
            found.problems.append(Problem.at(ProblemKind.DUPLICATE, step.href, f"{place} is linked twice"))
            continue
        found.reached.add(place)
        yield place


#: Followed on the way.
_DOWNWARDS = ("child", "item")


@dataclass(frozen=True, slots=True)
class Step:
    """A document on the way from the root."""

    href: str
    #: `Catalog`, `Collection` or `Feature`.
    type: str
    id: str


def link_problems(places: Places, step: Step, document: Mapping[str, Any], above: Sequence[Step]) -> Iterator[Problem]:
    """Yield what is wrong with the links of a document that lies below `above`, root first."""
    resolved: dict[str, list[str]] = {}
    for link in document["links"]:
        rel, href = str(link.get("rel")), link.get("href")
        if rel in _DOWNWARDS:
            continue
        try:
            resolved.setdefault(rel, []).append(resolve(step.href, href))
        except StacError as error:
            yield Problem.at(ProblemKind.LINK_WRONG, step.href, f"{rel}: {error}")
    yield from _upwards(step, resolved, above)
    yield from _own(step, resolved.pop("self", []))
    root = above[0].href if above else step.href
    known = {each.href for each in (*above, step)}
    for rel, targets in resolved.items():
        for target in targets:
            if target not in known and _is_ours(root, target):
                yield from _existing(places, step, rel, target)


def _upwards(step: Step, resolved: Mapping[str, list[str]], above: Sequence[Step]) -> Iterator[Problem]:
    """Yield what is wrong with the links to root, parent and collection."""
    wanted: dict[str, set[str]] = {"root": {above[0].href if above else step.href}}
    if above:
        # An item may name its collection or the node in between that lists it.
        wanted["parent"] = {each.href for each in above} if step.type == "Feature" else {above[-1].href}
    collections = [each.href for each in above if each.type == "Collection"]
    if step.type == "Feature" and collections:
        wanted["collection"] = {collections[-1]}
    for rel, places in wanted.items():
        if not resolved.get(rel):
            yield Problem.at(ProblemKind.LINK_MISSING, step.href, f"it has no {rel} link")
        for target in resolved.get(rel, []):
            if target not in places:
                yield Problem.at(
                    ProblemKind.LINK_WRONG, step.href, f"its {rel} link leads to {target}, not to {max(places)}"
                )


def _own(step: Step, targets: Sequence[str]) -> Iterator[Problem]:
    """Yield self links that name another place of the same kind; a copy in a folder may name the original."""
    for target in targets:
        if _kind(target) == _kind(step.href) and target != step.href:
            yield Problem.at(ProblemKind.LINK_WRONG, step.href, f"its self link says {target}")


def _existing(places: Places, step: Step, rel: str, target: str) -> Iterator[Problem]:
    try:
        if places.size(target) is None:
            yield Problem.at(ProblemKind.LINK_BROKEN, step.href, f"its {rel} link to {target} leads to nothing")
    except StacError as error:
        yield Problem.at(ProblemKind.UNREACHABLE, target, str(error))


def _is_ours(root: str, target: str) -> bool:
    """Return whether a place belongs to the catalog; what lies elsewhere is not asked."""
    return target.startswith(posixpath.dirname(root) + "/")


def _kind(href: str) -> str:
    return "s3" if is_s3(href) else "web" if is_remote(href) else "file"
