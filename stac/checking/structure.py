"""The skeleton of a catalog: catalogs and collections to any depth, and the links that lead to items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stac.checking.links import Step, link_problems
from stac.checking.places import Places
from stac.checking.report import Counts, Problem, ProblemKind
from stac.checking.schemas import schema_problem
from stac.errors import SourceUnavailable, StacError
from stac.sources.hrefs import resolve

_DEEPEST = 16
#: What a node of ours says of the items below it.
_CONTENTS = "unveil:contents"
_CONTAINERS = ("Catalog", "Collection")


@dataclass(frozen=True, slots=True)
class ItemLink:
    """Where an item should be, and the documents above it, root first."""

    href: str
    above: tuple[Step, ...]


@dataclass(slots=True)
class Structure:
    """What a walk from the root found."""

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
    """Walk from the root over `child` links to any depth.

    Raises:
        UnreadableCatalog: the root is no STAC document.
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
    """Count a node and note its own problems; tell whether what it links can be followed."""
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
    if isinstance(contents := document.get(_CONTENTS), dict) and "items" in contents:
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
