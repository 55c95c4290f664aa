"""Progress of a run in this process, and custom Prefect events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """What is going on."""

    text: str
    done: int = 0
    #: 0 while unknown.
    total: int = 0


_listeners: list[Callable[[Event], None]] = []


@contextmanager
def listening(listener: Callable[[Event], None]) -> Iterator[None]:
    """Call `listener` with every event of this process while the context is open."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def report_progress(text: str, done: int = 0, total: int = 0) -> None:
    """Report how far the work is to all listeners."""
    for listener in _listeners:
        listener(Event(text, done, total))


@unique
class EventName(StrEnum):
    """Names of our events."""

    #: Inputs or results look unlike the training set.
    DRIFT_ALARM = "unveil.drift.alarm"
    #: The alias `champion` points to another version, whoever moved it.
    MODEL_PROMOTED = "unveil.model.promoted"
    #: A census found scenes without a product.
    CENSUS_INCOMPLETE = "unveil.census.incomplete"


def emit(name: EventName, subject: str, payload: Mapping[str, Any]) -> None:
    """Send an event to the Prefect server of this context.

    Args:
        name: what happened.
        subject: what it is about, e.g. `model.unveil-de`; becomes the resource `unveil.<subject>`.
        payload: JSON values; never credentials.
    """
    from prefect.events import emit_event

    resource = {"prefect.resource.id": f"unveil.{subject}", "prefect.resource.name": subject}
    emit_event(event=str(name), resource=resource, payload=dict(payload))
