"""Telling Prefect: a table for people, events for automations."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_table_artifact

from flows.drift.verdict import DriftReport, FeatureDrift, Verdict
from flows.events import EventName, emit
from flows.services.outage import through_restart
from flows.work import ModelRef


def tell_drift(report: DriftReport, model: ModelRef, collection: str, run_id: str) -> None:
    """Store the comparison as a Prefect artifact; emit an event when it alarms."""
    through_restart()(create_table_artifact, rows_of(report), key="drift", description=report.sentence)
    if report.verdict is Verdict.ALARM:
        # Settings stay out: they may hold addresses with logins.
        payload = {
            "run_id": run_id,
            "collection": collection,
            "model_version": model.version,
            "verdict": report.verdict.value,
            "sentence": report.sentence,
            "units": report.units,
            "features": [_figures(feature) for feature in report.of(Verdict.ALARM)],
        }
        emit(EventName.DRIFT_ALARM, f"model.{model.name}", payload)


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
