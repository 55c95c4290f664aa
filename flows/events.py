"""Events of Unveil at the Prefect server: what automations listen to."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum, unique
from typing import Any


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
