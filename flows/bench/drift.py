"""Which changes of the input does drift notice? The sample as it is, and spoilt on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pystac

from de_model.checkpoint import shipped_weights
from flows.bench.machine import machine
from flows.drift.baseline import Baseline, baseline_of
from flows.drift.compare import compare
from flows.drift.limits import DriftLimits
from flows.drift.page import drift_table
from flows.drift.statistics import UnitStatistics, input_statistics
from flows.drift.unit_drift import NO_BASELINE
from flows.drift.verdict import DriftReport, Verdict
from flows.errors import InvalidBaseline
from flows.models.training_pairs import cloudy_and_clear
from flows.stacks import SceneSet, dated_stacks_of
from stac.stack import Stack

_TRAINED, _FOREIGN = "MGRS-33TWM", "MGRS-33TWL"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A change of scenes."""

    title: str
    #: Factor on reflectance, then what is added to it.
    factor: float = 1.0
    offset: float = 0.0
    #: Near infrared as dark as red: ground without plants.
    barren: bool = False
    #: Elevation of the sun instead of the scene's, degrees.
    sun: float | None = None

    def change(self, stack: Stack) -> Stack:
        """Return the stack as the scenario has it; pixels without data stay so."""
        dn = stack.dn * self.factor + np.where(stack.dn > 0, self.offset * 1e4, 0)
        if self.barren:
            dn[:, stack.bands.index("nir")] = dn[:, stack.bands.index("red")]
        return replace(stack, dn=np.rint(dn).clip(0, 65_535).astype(np.uint16))

    def scenes(self, items: Sequence[pystac.Item]) -> list[pystac.Item]:
        """Return the items under the scenario's sun."""
        changed = [item.clone() for item in items]
        for item in changed:
            if self.sun is not None:
                item.properties["view:sun_elevation"] = self.sun
        return changed


@dataclass(frozen=True, slots=True)
class Judged:
    """One row of the page."""

    title: str
    report: DriftReport


#: What happens to the square that was not trained on.
SCENARIOS = (
    *(Scenario(f"offset {offset:+g}", offset=offset) for offset in (0.005, 0.01, 0.02, 0.05, 0.1)),
    *(Scenario(f"reflectance × {factor:g}", factor=factor) for factor in (1.1, 1.5, 2.0)),
    *(Scenario(f"sun at {sun:g}°", sun=sun) for sun in (45.0, 35.0, 18.0)),
    Scenario("no plants: near infrared as dark as red", barren=True),
)
_AS_IT_IS = Scenario("as it is")
_ABOUT = (
    "The inputs of the sample against the baseline of the shipped model, which was made of cell MGRS-33TWM; the model "
    "has never seen MGRS-33TWL. Outputs (W, intervals, residual cloud) need a run and are not in this page."
)


def bench_drift(limits: DriftLimits) -> list[Judged]:
    """Judge the inputs of the sample: every date alone, the cloudy ones together, and these after every change.

    Raises:
        InvalidBaseline: the shipped weights have no baseline.
    """
    baseline = baseline_of(shipped_weights())
    if baseline is None:
        raise InvalidBaseline(NO_BASELINE)
    return [row for code in (_TRAINED, _FOREIGN) for row in _square(code, baseline, limits)]


def _square(code: str, baseline: Baseline, limits: DriftLimits) -> list[Judged]:
    ((stack, dates),) = dated_stacks_of(SceneSet((code,)))
    cloudy = cloudy_and_clear(stack)[0]

    def judge(title: str, scenario: Scenario, indices: Sequence[int]) -> Judged:
        changed = scenario.change(stack)
        units = [
            UnitStatistics(dates[i].id, input_statistics(changed, i, scenario.scenes(dates[i].items))) for i in indices
        ]
        return Judged(title, compare(units, baseline, limits))

    found = [judge(f"{date.id} alone", _AS_IT_IS, [index]) for index, date in enumerate(dates)]
    found.append(judge(f"{code}, cloudy dates, as they are", _AS_IT_IS, cloudy))
    if code == _FOREIGN:
        found += [judge(f"{code}, cloudy dates, {scenario.title}", scenario, cloudy) for scenario in SCENARIOS]
    return found


def as_markdown(rows: Sequence[Judged], command: str) -> str:
    """Return the results page."""
    quiet = next(row for row in rows if row.title.endswith("as they are") and row.title.startswith(_FOREIGN))
    head = "| scenes | units | verdict | alarms | to watch |"
    lines = [
        "# Drift, measured",
        f"Command: `{command}`; {datetime.now(UTC):%Y-%m-%d}; {machine()}.",
        _ABOUT,
        "\n".join([head, "|---" * 5 + "|", *(_row(row) for row in rows)]),
        "## The square that was not trained on, feature by feature",
        drift_table([feature.document() for feature in quiet.report.features]),
    ]
    return "\n\n".join(lines) + "\n"


def as_records(rows: Sequence[Judged]) -> list[dict[str, Any]]:
    """Return the rows as JSON values."""
    return [{"scenes": row.title} | row.report.document() for row in rows]


def _row(row: Judged) -> str:
    alarms, watched = (
        ", ".join(feature.name for feature in row.report.of(verdict)) or "–"
        for verdict in (Verdict.ALARM, Verdict.WATCH)
    )
    return f"| {row.title} | {row.report.units} | {row.report.verdict} | {alarms} | {watched} |"
