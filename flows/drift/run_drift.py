"""The drift of a run: its units taken together, told to Prefect."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import httpx

from flows.drift.alarms import tell_drift
from flows.drift.baseline import baseline_of
from flows.drift.compare import compare
from flows.drift.shelf import of_units
from flows.errors import KNOWN_ERRORS
from flows.settings import RunSettings
from flows.work import ModelRef

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
        tell_drift(report, model, settings.collection, run_id)
    except (*KNOWN_ERRORS, httpx.HTTPError, OSError) as error:
        _log.warning("drift was not watched: %s", error)
        return None
    _log.info("%s", report.sentence)
    return report.document(shares=False)
