"""The drift of one work unit: counted while it is made, written into its metadata, kept for the window."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pystac

from flows.drift.baseline import baseline_of
from flows.drift.compare import compare
from flows.drift.limits import DriftLimits
from flows.drift.statistics import UnitStatistics, input_statistics, output_statistics
from flows.drift.verdict import DriftReport
from flows.errors import InvalidBaseline
from stac.load.stack import Stack
from stac.quality.figures import QualityFigures

NO_BASELINE = "The model has no drift baseline; `unveil drift --baseline` makes one of its training cells."


@dataclass(frozen=True, slots=True)
class UnitDrift:
    """What was counted of one unit, and how it compares with the training set."""

    statistics: UnitStatistics
    #: None where there is nothing to compare with.
    report: DriftReport | None
    #: Why there is not.
    note: str = ""

    @property
    def document(self) -> dict[str, Any]:
        """All of it as JSON values, for `metadata.json` and the report."""
        report = None if self.report is None else self.report.document()
        return {"statistics": self.statistics.document(), "comparison": report, "note": self.note}


def unit_drift(
    overview: Stack, scenes: Iterable[pystac.Item], figures: QualityFigures, weights: Path, limits: DriftLimits
) -> UnitDrift:
    """Count what went into a unit and what came out of it, and compare. A broken baseline stops no restoration.

    Args:
        overview: all dates of the unit, the target first, whole or thinned.
        scenes: items of the target.
        figures: of the written product.
        weights: the model.
        limits: thresholds.
    """
    counted = input_statistics(overview, 0, scenes) | output_statistics(figures)
    statistics = UnitStatistics(overview.item_ids[0], counted)
    try:
        baseline = baseline_of(weights)
        if baseline is None:
            return UnitDrift(statistics, None, NO_BASELINE)
        return UnitDrift(statistics, compare([statistics], baseline, limits))
    except InvalidBaseline as error:
        return UnitDrift(statistics, None, str(error))
