"""Which changes of the input raise a drift alarm: the sample as it is, and spoilt on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pystac

from benchmarks.report import Page, parser, publish, table
from de_model.checkpoint import shipped_weights
from de_model.errors import InvalidCheckpoint
from flows.drift.compare import DriftReport, Verdict, compare
from flows.drift.statistics import NO_BASELINE, Baseline, UnitStatistics, baseline_of, input_statistics
from flows.planning.search import SceneSet, cloudy_and_clear, dated_stacks_of
from stac.load.stack import Stack

_TRAINED, _FOREIGN = "MGRS-33TWM", "MGRS-33TWL"
#: Scenes by name, and what drift says of them.
Judged = tuple[str, DriftReport]
_ABOUT = (
    "The inputs of the sample against the baseline of the shipped model, which was made of cell MGRS-33TWM; the model "
    "has never seen MGRS-33TWL. Outputs (W, intervals, residual cloud) need a run and are not in this page."
)


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


#: What happens to the square that was not trained on.
SCENARIOS = (
    *(Scenario(f"offset {offset:+g}", offset=offset) for offset in (0.005, 0.01, 0.02, 0.05, 0.1)),
    *(Scenario(f"reflectance × {factor:g}", factor=factor) for factor in (1.1, 1.5, 2.0)),
    *(Scenario(f"sun at {sun:g}°", sun=sun) for sun in (45.0, 35.0, 18.0)),
    Scenario("no plants: near infrared as dark as red", barren=True),
)
_AS_IT_IS = Scenario("as it is")


def measure() -> list[Judged]:
    """Judge the inputs of the sample: every date alone, the cloudy ones together, and these after every change.

    Raises:
        InvalidCheckpoint: the shipped weights have no baseline.
    """
    baseline = baseline_of(shipped_weights())
    if baseline is None:
        raise InvalidCheckpoint(NO_BASELINE)
    return [row for code in (_TRAINED, _FOREIGN) for row in _square(code, baseline)]


def _square(code: str, baseline: Baseline) -> list[Judged]:
    ((stack, dates),) = dated_stacks_of(SceneSet(cells=(code,)))
    cloudy = cloudy_and_clear(stack)[0]

    def judge(title: str, scenario: Scenario, indices: Sequence[int]) -> Judged:
        changed = scenario.change(stack)
        units = [
            UnitStatistics(dates[i].id, input_statistics(changed, i, scenario.scenes(dates[i].items))) for i in indices
        ]
        return title, compare(units, baseline)

    found = [judge(f"{date.id} alone", _AS_IT_IS, [index]) for index, date in enumerate(dates)]
    found.append(judge(f"{code}, cloudy dates, as they are", _AS_IT_IS, cloudy))
    if code == _FOREIGN:
        found += [judge(f"{code}, cloudy dates, {scenario.title}", scenario, cloudy) for scenario in SCENARIOS]
    return found


def page_of(rows: Sequence[Judged]) -> Page:
    """Return the results page, a row per change."""
    quiet = next(report for title, report in rows if title == f"{_FOREIGN}, cloudy dates, as they are")
    found = table(("scenes", "units", "verdict", "alarms", "to watch"), [_row(title, report) for title, report in rows])
    head = ("feature", "here", "in training", "stability index", "alarm above", "shift", "alarm above", "verdict")
    features = table(head, [(f.label, *f.shown, f.verdict) for f in quiet.features])
    parts = (_ABOUT, found, "## The square that was not trained on, feature by feature", features)
    return Page("Drift, measured", parts, [{"scenes": title} | asdict(report) for title, report in rows])


def _row(title: str, report: DriftReport) -> tuple[object, ...]:
    alarms, watched = (
        ", ".join(feature.name for feature in report.of(verdict)) or "–" for verdict in (Verdict.ALARM, Verdict.WATCH)
    )
    return title, report.units, report.verdict, alarms, watched


if __name__ == "__main__":
    publish("drift", page_of(measure()), parser("drift", __doc__).parse_args())
