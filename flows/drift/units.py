"""Statistics of restored units: counted, kept in their metadata, compared with the training set, and reported."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pystac
from pydantic import TypeAdapter

from de_model.errors import InvalidCheckpoint
from flows.drift.baseline import NO_BASELINE, baseline_of
from flows.drift.compare import Verdict, compare
from flows.drift.statistics import UnitStatistics, input_statistics, output_statistics
from flows.errors import KNOWN_ERRORS
from flows.planning.workunit import ModelRef
from flows.progress import EventName, emit
from flows.services.prefect_client import through_restart
from flows.settings import RunSettings
from stac.catalog.product_collections import ProductCollection
from stac.catalog.publish import StaticCatalog
from stac.load.stack import Stack
from stac.quality.figures import QualityFigures

_log = logging.getLogger("unveil")


def unit_drift(
    overview: Stack, scenes: Iterable[pystac.Item], figures: QualityFigures, weights: Path
) -> dict[str, Any]:
    """Count what went into a unit and what came out of it, and compare. A broken baseline stops no restoration.

    Args:
        overview: all dates of the unit, the target first, whole or thinned.
        scenes: items of the target.
        figures: of the written product.
        weights: the model.

    Returns:
        `statistics`, `comparison` (None where there is nothing to compare with) and `note` (why there is not) as JSON
        values, for `metadata.json` and the report.
    """
    counted = input_statistics(overview, 0, scenes) | output_statistics(figures)
    statistics = UnitStatistics(overview.item_ids[0], counted)
    comparison, note = None, ""
    try:
        baseline = baseline_of(weights)
        if baseline is None:
            note = NO_BASELINE
        else:
            comparison = asdict(compare([statistics], baseline))
    except InvalidCheckpoint as error:
        note = str(error)
    return {"statistics": asdict(statistics), "comparison": comparison, "note": note}


_STATISTICS = TypeAdapter(UnitStatistics)


def statistics_of(item_id: str, settings: RunSettings, model_sha256: str) -> UnitStatistics | None:
    """Return the statistics in the metadata of a published item; None where it has none, or another model made it.

    Raises:
        InvalidCheckpoint: they cannot be read.
        PublishError, AccessRefused, SourceUnavailable: the catalog cannot be read.
    """
    catalog = StaticCatalog(settings.out, s3=settings.s3, workspace=settings.state)
    for collection in ProductCollection:
        name = f"{collection}/{item_id}/metadata.json"
        if (metadata := catalog.target.read(name)) is None:
            continue
        try:
            if "drift" not in metadata or metadata["model"]["sha256"] != model_sha256:
                return None
            return _STATISTICS.validate_python(metadata["drift"]["statistics"])
        except (ValueError, KeyError, TypeError, InvalidCheckpoint) as error:
            raise InvalidCheckpoint(
                f"{settings.out}/{name} holds no statistics ({error}); make the product again."
            ) from error
    return None


def watch_run(settings: RunSettings, model: ModelRef, run_id: str, item_ids: Collection[str]) -> dict[str, Any] | None:
    """Compare what a run restored with the training set: a Prefect artifact, and an event when it alarms.

    Watching never fails a run: what goes wrong is logged.

    Returns:
        the comparison as JSON values, None where nothing could be compared.
    """
    from prefect.artifacts import create_table_artifact

    try:
        baseline = baseline_of(Path(model.weights))
        found = (statistics_of(item_id, settings, model.sha256) for item_id in item_ids)
        units = [each for each in found if each is not None]
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
