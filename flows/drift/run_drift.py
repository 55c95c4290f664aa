"""The drift of a run: its units taken together, told to Prefect."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import httpx
import pystac

from flows.drift.alarms import tell_drift, tell_pairs
from flows.drift.baseline import Baseline, baseline_of
from flows.drift.compare import compare
from flows.drift.pairs import add_pairs, announce, candidate_pairs, trained_pairs
from flows.drift.shelf import of_units
from flows.errors import KNOWN_ERRORS
from flows.settings import RunSettings
from flows.work import ModelRef

_log = logging.getLogger("unveil")


def watch_run(
    settings: RunSettings, model: ModelRef, run_id: str, work_ids: Collection[str], scenes: Iterable[pystac.Item]
) -> dict[str, Any] | None:
    """Compare what a run restored with the training set, count new pairs, and tell Prefect both.

    Watching never fails a run: what goes wrong is logged.

    Args:
        settings: of the run.
        model: that restored the units.
        run_id: of the run.
        work_ids: of the units that it restored.
        scenes: all that it found.

    Returns:
        the comparison as JSON values, None where nothing could be compared.
    """
    try:
        baseline = baseline_of(Path(model.weights))
        _watch_pairs(settings, model, run_id, candidate_pairs(scenes, settings.prior_days), baseline)
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


def _watch_pairs(
    settings: RunSettings, model: ModelRef, run_id: str, names: set[str], baseline: Baseline | None
) -> None:
    found = add_pairs(settings.state, names, trained_pairs(settings.state, baseline))
    if len(found.names) >= max(settings.drift_pairs, found.announced + 1):
        tell_pairs(found, settings.drift_pairs, model, settings.collection, run_id)
        announce(settings.state, found)
