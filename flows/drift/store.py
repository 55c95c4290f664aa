"""Statistics of units, kept in the state folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pystac

from flows.drift.baseline import baseline_of
from flows.drift.compare import DriftReport, compare
from flows.drift.statistics import UnitStatistics, input_statistics, output_statistics
from flows.errors import InvalidBaseline
from flows.settings.fields import DriftLimits
from stac.io.files import write_json, writing
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


#: Units that are kept; older ones are removed.
KEPT = 1000


def keep(state: Path, work_id: str, model_sha256: str, statistics: UnitStatistics) -> None:
    """Keep the statistics of a unit; the same unit again replaces them.

    Args:
        state: the state folder of the run.
        work_id: of the unit.
        model_sha256: of the weights that restored it.
        statistics: what was counted.

    Raises:
        DiskFull, NotWritable: the folder cannot be written.
    """
    folder = _folder(state)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    document = {"work_id": work_id, "model_sha256": model_sha256} | statistics.document(summaries=False)
    write_json(folder / f"{work_id}.json", document)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink(missing_ok=True)


def last(state: Path, count: int, model_sha256: str) -> tuple[UnitStatistics, ...]:
    """Return the statistics of the last units that a model restored, latest first.

    Raises:
        InvalidBaseline: those of a unit cannot be read.
    """
    found: list[UnitStatistics] = []
    for path in _newest_first(_folder(state)):
        if len(found) == count:
            break
        model, statistics = _read(path)
        if model == model_sha256:
            found.append(statistics)
    return tuple(found)


def of_units(state: Path, work_ids: Collection[str]) -> tuple[UnitStatistics, ...]:
    """Return the statistics of some units; those that have none are left out.

    Raises:
        InvalidBaseline: those of a unit cannot be read.
    """
    paths = [_folder(state) / f"{work_id}.json" for work_id in work_ids]
    return tuple(_read(path)[1] for path in paths if path.is_file())


def _folder(state: Path) -> Path:
    return state / "drift" / "units"


def _newest_first(folder: Path) -> list[Path]:
    """Return the files of a folder by time, those of one moment by name; another run may remove some meanwhile."""
    times: dict[Path, int] = {}
    for path in folder.glob("*.json"):
        with contextlib.suppress(FileNotFoundError):
            times[path] = path.stat().st_mtime_ns
    return sorted(times, key=lambda path: (-times[path], path.name))


def _read(path: Path) -> tuple[str, UnitStatistics]:
    try:
        document = json.loads(path.read_text("utf-8"))
        return str(document["model_sha256"]), UnitStatistics.from_document(document)
    except (OSError, ValueError, KeyError, TypeError, InvalidBaseline) as error:
        raise InvalidBaseline(f"The statistics {path} cannot be read ({error}); remove the file.") from error
