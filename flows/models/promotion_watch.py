"""Noticing that an alias moved, whoever moved it: the champion is compared with the one seen last."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from flows.events import EventName, emit
from flows.models.registry import CHAMPION, Registry


@dataclass(frozen=True, slots=True)
class Move:
    """A champion that is another one than before."""

    name: str
    version: str
    #: Version that was seen before.
    before: str


def watch(registry: Registry, name: str) -> Move | None:
    """Return how the champion has changed since the last look, after an event told of it; None when it has not.

    What was seen last is a variable at the Prefect server, so that all workers and machines share it. The first look
    only remembers. Two looks at the same moment may both tell.

    Raises:
        UnknownModel: there is no such model.
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
