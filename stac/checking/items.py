"""An item: schema, rules, links, and its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stac.checking.assets import asset_problems
from stac.checking.links import Step, link_problems
from stac.checking.places import Places
from stac.checking.report import Counts, Problem, ProblemKind
from stac.checking.schemas import rule_problem, schema_problem
from stac.checking.structure import ItemLink, unread
from stac.errors import StacError
from stac.items import COG_TYPE


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
    problems = []
    if (problem := rule_problem(link.href, document)) is not None:
        problems.append(problem)
    problems += _membership(link, document)
    problems += link_problems(places, Step(link.href, "Feature", document["id"]), document, link.above)
    problems += asset_problems(places, link.href, document, checksums=checksums)
    when = str(document["properties"].get("datetime") or "")
    return ItemFindings(
        link, tuple(problems), _counts(document), document["id"], tuple(document.get("bbox") or ()), when
    )


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
