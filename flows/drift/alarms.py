"""Telling Prefect: a table for people, events for automations."""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Any

from prefect.artifacts import create_table_artifact
from prefect.events import emit_event

from flows.drift.pairs import NewPairs
from flows.drift.verdict import DriftReport, FeatureDrift, Verdict
from flows.work import ModelRef


@unique
class DriftEvent(StrEnum):
    """Names of the events; automations of a deployment listen to them."""

    ALARM = "unveil.drift.alarm"
    PAIRS = "unveil.pairs.enough"


def tell_drift(report: DriftReport, model: ModelRef, collection: str, run_id: str) -> None:
    """Store the comparison as a Prefect artifact; emit an event when it alarms."""
    create_table_artifact(rows_of(report), key="drift", description=report.sentence)
    if report.verdict is Verdict.ALARM:
        payload = {
            "run_id": run_id,
            "model_version": model.version,
            "verdict": report.verdict.value,
            "sentence": report.sentence,
            "units": report.units,
            "features": [_figures(feature) for feature in report.of(Verdict.ALARM)],
        }
        _emit(DriftEvent.ALARM, model, collection, payload)


def tell_pairs(pairs: NewPairs, enough: int, model: ModelRef, collection: str, run_id: str) -> None:
    """Emit the event that enough new pairs have come in."""
    payload = {"run_id": run_id, "model_version": model.version, "pairs": len(pairs.names), "enough": enough}
    _emit(DriftEvent.PAIRS, model, collection, payload)


def rows_of(report: DriftReport) -> list[dict[str, Any]]:
    """Return one row per feature, the worst first."""
    worst_first = sorted(report.features, key=lambda feature: -feature.verdict.rank)
    return [{"verdict": feature.verdict.value} | _figures(feature) for feature in worst_first]


def _figures(feature: FeatureDrift) -> dict[str, Any]:
    psi = feature.psi
    return {
        "feature": feature.name,
        "values": feature.values,
        "mean": feature.mean,
        "training_mean": feature.training_mean,
        "psi": psi.value if psi else None,
        "psi_alarm": psi.alarm if psi else None,
        "shift": feature.shift.value,
        "shift_alarm": feature.shift.alarm,
        "sentence": feature.sentence,
    }


def _emit(event: DriftEvent, model: ModelRef, collection: str, payload: dict[str, Any]) -> None:
    """Emit an event about a model, related to the collection it was used on. Settings stay out: they may hold URLs."""
    emit_event(
        event=event.value,
        resource={"prefect.resource.id": f"unveil.model.{model.name}", "prefect.resource.name": model.name},
        related=[{"prefect.resource.id": f"unveil.collection.{collection}", "prefect.resource.role": "collection"}],
        payload=payload,
    )
