"""Promote, roll back and watch the champion."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from flows.errors import ChampionChanged, InvalidSettings, UnknownModel
from flows.models.registry import CHAMPION, Registry
from flows.models.version import ModelVersion
from flows.progress import EventName, emit
from flows.services.prefect_server import configured_api_url, health_problem

#: The version that waits for its evaluation, and the champion before the present one.
CHALLENGER, PREVIOUS = "challenger", "previous"


@dataclass(frozen=True, slots=True)
class Promotion:
    """What an alias move changed."""

    name: str
    #: Version that makes mosaics now.
    champion: str
    #: Version that made them before, None for the first.
    previous: str | None


def set_challenger(registry: Registry, version: ModelVersion) -> None:
    """Make a version the challenger."""
    with registry.session() as client:
        client.set_registered_model_alias(version.name, CHALLENGER, version.version)


def promote(registry: Registry, version: ModelVersion, why: str, against: str | None = None) -> Promotion:
    """Make a version the champion; the champion until now becomes `previous`.

    Runs that have begun keep the version they resolved. Promotions take turns. Killed at any moment, the champion is
    the old one or the new one.

    Args:
        registry: the registry.
        version: what is promoted.
        why: kept with the version.
        against: the champion it was compared with; None promotes it whatever the champion is.

    Raises:
        InvalidSettings: it is the champion already.
        InvalidCheckpoint: its weights are missing or were changed, so that no run could use it.
        ChampionChanged: another version became the champion since the comparison.
        ServiceUnavailable: the registry does not answer, or another promotion takes too long.
    """
    _look(registry, version.name)
    registry.weights(version)
    name = version.name
    with registry.exclusive() as client:
        aliases = registry.aliases(name)
        before = aliases.get(CHAMPION)
        if before == version.version:
            raise InvalidSettings(f"{version.uri} is the champion already; nothing to promote.")
        if against is not None and before != against:
            raise ChampionChanged(
                f"{version.uri} was compared with version {against}, but version {before or 'none'} is the champion "
                "since; compare again."
            )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        for tag, value in (("unveil_promoted", now), ("unveil_promoted_why", why)):
            client.set_model_version_tag(name, version.version, tag, value)
        if before is not None:
            client.set_registered_model_alias(name, PREVIOUS, before)
        client.set_registered_model_alias(name, CHAMPION, version.version)
        if aliases.get(CHALLENGER) == version.version:
            client.delete_registered_model_alias(name, CHALLENGER)
    _look(registry, name)
    return Promotion(name, version.version, before)


def rollback(registry: Registry, name: str) -> Promotion:
    """Make the previous champion the champion again; the two change places.

    `previous` follows promotions by Unveil; an alias that was moved in MLflow leaves it as it was.

    Raises:
        UnknownModel: the model never had another champion.
        InvalidCheckpoint: its weights are missing or were changed, so that no run could use it.
        ServiceUnavailable: the registry does not answer, or another promotion takes too long.
    """
    _look(registry, name)
    with registry.exclusive() as client:
        aliases = registry.aliases(name)
        previous, champion = aliases.get(PREVIOUS), aliases.get(CHAMPION)
        if previous is None or previous == champion:
            raise UnknownModel(f"Model {name} has no previous champion to go back to; see `unveil models`.")
        registry.weights(registry.resolve(f"models:/{name}/{previous}"))
        client.set_registered_model_alias(name, CHAMPION, previous)
        if champion is not None:
            client.set_registered_model_alias(name, PREVIOUS, champion)
    _look(registry, name)
    return Promotion(name, previous, champion)


def _look(registry: Registry, name: str) -> None:
    """Let the Prefect server hear of a champion that changed, where one is configured and answers."""
    url = configured_api_url()
    if url is not None and health_problem(url) is None:
        watch(registry, name)


@dataclass(frozen=True, slots=True)
class Move:
    """A champion that is another one than before."""

    name: str
    version: str
    #: Version that was seen before.
    before: str


def watch(registry: Registry, name: str) -> Move | None:
    """Emit an event when the champion has changed since the last look; return the change, None without one.

    What was seen last is a variable at the Prefect server, so that all workers and machines share it. The first look
    only remembers. Two looks at the same moment may both emit it.

    Raises:
        UnknownModel: the registry does not have the model.
        ServiceUnavailable: the registry does not answer.
    """
    from prefect.variables import Variable

    version = registry.aliases(name).get(CHAMPION)
    if version is None:
        return None
    variable = variable_of(name)
    before = Variable.get(variable)
    if before == version:
        return None
    move = None if before is None else Move(name, version, str(before))
    if move is not None:
        emit(EventName.MODEL_PROMOTED, f"model.{name}", asdict(move))
    Variable.set(variable, version, overwrite=True)
    return move


def variable_of(name: str) -> str:
    """Return the name of the variable that holds the champion of a model."""
    return "unveil_champion_" + re.sub(r"[^a-z0-9]+", "_", name.lower())
