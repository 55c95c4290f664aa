"""Compare a run with the training set of its model; emit alarms as events."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import httpx
from prefect.artifacts import create_table_artifact

from flows.drift.baseline import baseline_of
from flows.drift.compare import DriftReport, FeatureDrift, Verdict, compare
from flows.drift.store import of_units
from flows.errors import KNOWN_ERRORS
from flows.planning.workunit import ModelRef
from flows.progress import EventName, emit
from flows.services.prefect_server import through_restart
from flows.settings import RunSettings

_log = logging.getLogger("unveil")


def watch_run(settings: RunSettings, model: ModelRef, run_id: str, work_ids: Collection[str]) -> dict[str, Any] | None:
    """Compare what a run restored with the training set, and report it to Prefect.

    Watching never fails a run: what goes wrong is logged.

    Args:
        settings: of the run.
        model: that restored the units.
        run_id: of the run.
        work_ids: of the units that it restored.

    Returns:
        the comparison as JSON values, None where nothing could be compared.
    """
    try:
        baseline = baseline_of(Path(model.weights))
        units = of_units(settings.state, work_ids)
        if baseline is None or not units:
            return None
        report = compare(units, baseline, settings.drift_limits)
        report_drift(report, model, settings.collection, run_id)
    except (*KNOWN_ERRORS, httpx.HTTPError, OSError) as error:
        _log.warning("drift was not watched: %s", error)
        return None
    _log.info("%s", report.sentence)
    return report.document(shares=False)


def report_drift(report: DriftReport, model: ModelRef, collection: str, run_id: str) -> None:
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
