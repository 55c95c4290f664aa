"""Whether the links of a document say where it lies, and lead somewhere."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stac.access.locations import is_s3
from stac.checking.places import Places
from stac.checking.report import Problem, ProblemKind
from stac.errors import StacError
from stac.sources.hrefs import is_remote, resolve

#: Followed by the walk itself.
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
    """Tell whether a place belongs to the catalog; what lies elsewhere is not asked."""
    return target.startswith(posixpath.dirname(root) + "/")


def _kind(href: str) -> str:
    return "s3" if is_s3(href) else "web" if is_remote(href) else "file"
