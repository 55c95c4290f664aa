"""Which version makes today's mosaics: aliases are moved one at a time, so that a champion exists at every moment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from flows.errors import InvalidSettings, UnknownModel
from flows.models.registry import CHAMPION, Registry
from flows.models.version import ModelVersion

#: The version that waits for its contest, and the champion before the present one.
CHALLENGER, PREVIOUS = "challenger", "previous"


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


def promote(registry: Registry, version: ModelVersion, why: str) -> Promotion:
    """Make a version the champion; the champion until now becomes `previous`.

    Runs that have begun keep the version they resolved. Promotions take turns. Killed at any moment, the champion is
    the old one or the new one.

    Args:
        registry: the registry.
        version: what is promoted.
        why: kept with the version.

    Raises:
        InvalidSettings: it is the champion already.
        ServiceUnavailable: the registry does not answer, or another promotion takes too long.
    """
    with registry.exclusive():
        aliases = registry.aliases(version.name)
        before = aliases.get(CHAMPION)
        if before == version.version:
            raise InvalidSettings(f"{version.uri} is the champion already; nothing to promote.")
        if before is not None:
            registry.point(version.name, PREVIOUS, before)
        registry.note(version, {"unveil_promoted": _now(), "unveil_promoted_why": why})
        registry.point(version.name, CHAMPION, version.version)
        if aliases.get(CHALLENGER) == version.version:
            registry.unpoint(version.name, CHALLENGER)
    return Promotion(version.name, version.version, before)


def rollback(registry: Registry, name: str) -> Promotion:
    """Make the previous champion the champion again; the two change places.

    Raises:
        UnknownModel: there is no previous champion.
        ServiceUnavailable: the registry does not answer, or another promotion takes too long.
    """
    with registry.exclusive():
        aliases = registry.aliases(name)
        previous, champion = aliases.get(PREVIOUS), aliases.get(CHAMPION)
        if previous is None or previous == champion:
            raise UnknownModel(f"Model {name} has no previous champion to go back to; see `unveil models`.")
        registry.point(name, CHAMPION, previous)
        if champion is not None:
            registry.point(name, PREVIOUS, champion)
    return Promotion(name, previous, champion)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
