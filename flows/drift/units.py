"""Statistics of restored units: counted and kept in the state folder, compared with the training set, and reported."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import pystac
from pydantic import TypeAdapter

from flows.drift.baseline import NO_BASELINE, baseline_of
from flows.drift.compare import DriftReport, Verdict, compare
from flows.drift.statistics import UnitStatistics, input_statistics, output_statistics
from flows.errors import KNOWN_ERRORS, InvalidBaseline
from flows.planning.workunit import ModelRef
from flows.progress import EventName, emit
from flows.services.prefect_server import through_restart
from flows.settings import RunSettings
from stac.io.files import write_bytes, writing
from stac.load.stack import Stack
from stac.quality.figures import QualityFigures

_log = logging.getLogger("unveil")
#: Units that are kept; older ones are removed.
KEPT = 1000


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
        report = None if self.report is None else asdict(self.report)
        return {"statistics": asdict(self.statistics), "comparison": report, "note": self.note}


def unit_drift(overview: Stack, scenes: Iterable[pystac.Item], figures: QualityFigures, weights: Path) -> UnitDrift:
    """Count what went into a unit and what came out of it, and compare. A broken baseline stops no restoration.

    Args:
        overview: all dates of the unit, the target first, whole or thinned.
        scenes: items of the target.
        figures: of the written product.
        weights: the model.
    """
    counted = input_statistics(overview, 0, scenes) | output_statistics(figures)
    statistics = UnitStatistics(overview.item_ids[0], counted)
    try:
        baseline = baseline_of(weights)
    except InvalidBaseline as error:
        return UnitDrift(statistics, None, str(error))
    if baseline is None:
        return UnitDrift(statistics, None, NO_BASELINE)
    return UnitDrift(statistics, compare([statistics], baseline))


@dataclass(frozen=True, slots=True)
class _Kept:
    model_sha256: str
    statistics: UnitStatistics


_JSON = TypeAdapter(_Kept)


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
    write_bytes(folder / f"{work_id}.json", _JSON.dump_json(_Kept(model_sha256, statistics)))
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
        kept = _read(path)
        if kept.model_sha256 == model_sha256:
            found.append(kept.statistics)
    return tuple(found)


def of_units(state: Path, work_ids: Collection[str]) -> tuple[UnitStatistics, ...]:
    """Return the statistics of some units; those that have none are left out.

    Raises:
        InvalidBaseline: those of a unit cannot be read.
    """
    paths = [_folder(state) / f"{work_id}.json" for work_id in work_ids]
    return tuple(_read(path).statistics for path in paths if path.is_file())


def _folder(state: Path) -> Path:
    return state / "drift" / "units"


def _newest_first(folder: Path) -> list[Path]:
    """Return the files of a folder by time, those of one moment by name; another run may remove some meanwhile."""
    times: dict[Path, int] = {}
    for path in folder.glob("*.json"):
        with contextlib.suppress(FileNotFoundError):
            times[path] = path.stat().st_mtime_ns
    return sorted(times, key=lambda path: (-times[path], path.name))


def _read(path: Path) -> _Kept:
    try:
        return _JSON.validate_json(path.read_bytes())
    except (OSError, ValueError, InvalidBaseline) as error:
        raise InvalidBaseline(f"The statistics {path} cannot be read ({error}); remove the file.") from error


def watch_run(settings: RunSettings, model: ModelRef, run_id: str, work_ids: Collection[str]) -> dict[str, Any] | None:
    """Compare what a run restored with the training set: a Prefect artifact, and an event when it alarms.

    Watching never fails a run: what goes wrong is logged.

    Args:
        settings: of the run.
        model: that restored the units.
        run_id: of the run.
        work_ids: of the units that it restored.

    Returns:
        the comparison as JSON values, None where nothing could be compared.
    """
    from prefect.artifacts import create_table_artifact

    try:
        baseline = baseline_of(Path(model.weights))
        units = of_units(settings.state, work_ids)
        if baseline is None or not units:
            return None
        report = compare(units, baseline)
        rows = [
            {"verdict": f.verdict, "feature": f.name, "values": f.values, **f.figures, "sentence": f.sentence}
            for f in report.worst_first
        ]
        through_restart()(create_table_artifact, rows, key="drift", description=report.sentence)
        if report.verdict is Verdict.ALARM:
            # Settings stay out: they may hold addresses with logins.
            payload = {
                "run_id": run_id,
                "collection": settings.collection,
                "model_version": model.version,
                "verdict": report.verdict,
                "sentence": report.sentence,
                "units": report.units,
                "features": [row for row in rows if row["verdict"] is Verdict.ALARM],
            }
            emit(EventName.DRIFT_ALARM, f"model.{model.name}", payload)
    except (*KNOWN_ERRORS, httpx.HTTPError, OSError) as error:
        _log.warning("drift was not watched: %s", error)
        return None
    _log.info("%s", report.sentence)
    return report.brief
