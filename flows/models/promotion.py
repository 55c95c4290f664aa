"""Which version makes today's mosaics: aliases are moved one at a time, so that a champion exists at every moment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from flows.errors import ChampionChanged, InvalidSettings, UnknownModel
from flows.models.promotion_watch import watch
from flows.models.registry import CHAMPION, Registry
from flows.models.version import ModelVersion
from flows.services.prefect_server import configured_api_url, health_problem

#: The version that waits for its contest, and the champion before the present one.
CHALLENGER, PREVIOUS = "challenger", "previous"

#: Tags of the registered model: the move in progress, and the champion after the last one.
_INTENT, _KNOWN = "unveil_move", "unveil_champion"


@dataclass(frozen=True, slots=True)
class Promotion:
    """What an alias move changed."""

    name: str
    #: Version that makes mosaics now.
    champion: str
    #: Version that made them before, None for the first.
    previous: str | None


def nominate(registry: Registry, version: ModelVersion) -> None:
    """Make a version the challenger."""
    registry.point(version.name, CHALLENGER, version.version)


def promote(registry: Registry, version: ModelVersion, why: str, against: str | None = None) -> Promotion:
    """Make a version the champion; the champion until now becomes `previous`.

    Runs that have begun keep the version they resolved. Promotions take turns. Killed at any moment, the champion is
    the old one or the new one, and the next promotion, rollback or listing completes what is missing (`settle`).

    Args:
        registry: the registry.
        version: what is promoted.
        why: kept with the version.
        against: the champion it was compared with; None promotes it whatever the champion is.

    Raises:
        InvalidSettings: it is the champion already.
        ChampionChanged: another version became the champion since the comparison.
        ServiceUnavailable: the registry does not answer, or another promotion takes too long.
    """
    _look(registry, version.name)
    with registry.exclusive():
        _settle(registry, version.name)
        before = registry.aliases(version.name).get(CHAMPION)
        if before == version.version:
            raise InvalidSettings(f"{version.uri} is the champion already; nothing to promote.")
        if against is not None and before != against:
            raise ChampionChanged(
                f"{version.uri} was compared with version {against}, but version {before or 'none'} is the champion "
                "since; compare again."
            )
        registry.note(version, {"unveil_promoted": _now(), "unveil_promoted_why": why})
        moved = _move(registry, version.name, before, version.version)
    _look(registry, version.name)
    return moved


def rollback(registry: Registry, name: str) -> Promotion:
    """Make the previous champion the champion again; the two change places.

    Raises:
        UnknownModel: there is no previous champion.
        ServiceUnavailable: the registry does not answer, or another promotion takes too long.
    """
    _look(registry, name)
    with registry.exclusive():
        _settle(registry, name)
        aliases = registry.aliases(name)
        previous, champion = aliases.get(PREVIOUS), aliases.get(CHAMPION)
        if previous is None or previous == champion or not registry.has(name, previous):
            raise UnknownModel(f"Model {name} has no previous champion to go back to; see `unveil models`.")
        moved = _move(registry, name, champion, previous)
    _look(registry, name)
    return moved


def settle(registry: Registry, name: str) -> None:
    """Complete what a killed promotion left, and take note of a champion that somebody chose in MLflow.

    After a move by hand `previous` is the champion that unveil knew last, so that a rollback undoes it.

    Raises:
        UnknownModel: there is no such model.
        ServiceUnavailable: the registry does not answer, or another promotion takes too long.
    """
    with registry.exclusive():
        _settle(registry, name)


def _move(registry: Registry, name: str, before: str | None, after: str) -> Promotion:
    """Move the aliases. What is meant is written down first: whoever comes after a kill can complete it."""
    registry.mark(name, _INTENT, json.dumps({"before": before, "after": after}))
    registry.point(name, CHAMPION, after)
    _complete(registry, name, before, after)
    return Promotion(name, after, before)


def _complete(registry: Registry, name: str, before: str | None, after: str) -> None:
    """Do what follows the move of the champion; once or many times."""
    if before is not None and registry.has(name, before):
        registry.point(name, PREVIOUS, before)
    if registry.aliases(name).get(CHALLENGER) == after:
        registry.unpoint(name, CHALLENGER)
    registry.mark(name, _KNOWN, after)
    registry.mark(name, _INTENT, "")


def _settle(registry: Registry, name: str) -> None:
    champion, marks = registry.aliases(name).get(CHAMPION), registry.marks(name)
    meant, known = marks.get(_INTENT), marks.get(_KNOWN)
    if champion is None:
        return
    if meant:
        move = json.loads(meant)
        if champion == move["after"]:
            _complete(registry, name, move["before"], champion)
            return
        registry.mark(name, _INTENT, "")
    if known != champion:
        if known is not None and registry.has(name, known):
            registry.point(name, PREVIOUS, known)
        registry.mark(name, _KNOWN, champion)


def _look(registry: Registry, name: str) -> None:
    """Let the Prefect server hear of a champion that changed, where one is configured and answers."""
    url = configured_api_url()
    if url is not None and health_problem(url) is None:
        watch(registry, name)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
