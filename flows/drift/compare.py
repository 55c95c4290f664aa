"""Compare two sets of statistics: distances, chance, verdict; restored units, too, with the training set of a model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum, unique
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pystac
from numpy.typing import NDArray
from pydantic import TypeAdapter

from de_model.errors import InvalidCheckpoint
from flows.drift.statistics import (
    NO_BASELINE,
    Baseline,
    Feature,
    Histogram,
    Kind,
    UnitStatistics,
    baseline_of,
    feature_of,
    input_statistics,
    output_statistics,
)
from flows.errors import KNOWN_ERRORS
from flows.planning.workunit import ModelRef
from flows.progress import EventName, emit
from flows.services.prefect_server import through_restart
from flows.settings import RunSettings
from stac.catalog.product_collections import ProductCollection
from stac.catalog.publish import StaticCatalog
from stac.load.stack import Stack
from stac.quality.figures import QualityFigures

Array = NDArray[np.float64]

#: Share that an empty bin counts as: the index has no value for none at all.
_LEAST_SHARE = 1e-4
#: Least population stability index that is watched, and that alarms.
_PSI_WATCH, _PSI_ALARM = 0.1, 0.25
#: Windows drawn from the baseline, and the share of them that stays below the threshold of a watch.
_DRAWS, _CONFIDENCE = 200, 0.99
#: An alarm needs so many times the distance that chance reaches.
_MARGIN = 1.5
#: Neighbours are alike: so many pixels count as one independent value.
_CORRELATION_PX = 25
#: Features of fewer values than this are not compared.
_LEAST_VALUES = 200
Distance = Callable[[Array, Array], Array]
_log = logging.getLogger("unveil")
_STATISTICS = TypeAdapter(UnitStatistics)


def population_stability_index(now: Array, before: Array) -> Array:
    """Return sum((now - before) ln(now / before)) over bins.

    The symmetric Kullback-Leibler divergence (Jeffreys 1946), known as population stability index in credit scoring
    (Siddiqi 2006): below 0.1 nothing moved, above 0.25 much did.

    Args:
        now: shares `(..., bin)`.
        before: shares `(..., bin)`.
    """
    one, other = _without_zeros(now), _without_zeros(before)
    return np.asarray(((one - other) * np.log(one / other)).sum(axis=-1))


def wasserstein(now: Array, before: Array, centres: Array) -> Array:
    """Return the mean way that values move, in their own unit: the area between the cumulative shares.

    Args:
        now: shares `(..., bin)`.
        before: shares `(..., bin)`.
        centres: value of every bin `(bin,)`, rising.
    """
    gaps = np.abs(np.cumsum(now - before, axis=-1))[..., :-1]
    return np.asarray((gaps * np.diff(centres)).sum(axis=-1))


def total_variation(now: Array, before: Array) -> Array:
    """Return the share that would have to change its class, 0..1; for classes without an order."""
    return np.asarray(np.abs(now - before).sum(axis=-1) / 2)


def _without_zeros(shares: Array) -> Array:
    raised = np.maximum(shares, _LEAST_SHARE)
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def usual_distance(parts: Sequence[Histogram], units: int, values: int, kind: Kind, distance: Distance) -> float:
    """Return the distance that nearly all windows drawn from a baseline do not exceed.

    A bootstrap over parts (Efron 1979; parts rather than pixels, because pixels of one date are alike): both the
    window and what it is compared with are drawn anew with replacement. The window is then thinned to the number
    of independent values that are judged. The same arguments give the same number.

    Args:
        parts: the distributions of the baseline's parts.
        units: parts in a window.
        values: values in the window that is judged.
        kind: of the feature; single values are not thinned.
        distance: of shares `(..., bin)`.
    """
    rng = np.random.default_rng(0)
    counts = np.array([part.counts for part in parts], np.float64)
    even = np.full(len(parts), 1 / len(parts))
    window = _shares(rng.multinomial(units, even, _DRAWS) @ counts)
    reference = _shares(rng.multinomial(len(parts), even, _DRAWS) @ counts)
    if kind is not Kind.SCALAR:
        independent = max(values // _CORRELATION_PX, 1)
        window = rng.multinomial(independent, window) / independent
    return float(np.quantile(distance(window, reference), _CONFIDENCE))


def _shares(counts: Array) -> Array:
    return np.asarray(counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1))


def compare(units: Sequence[UnitStatistics], baseline: Baseline) -> DriftReport:
    """Compare units, taken together, with a training set."""
    found: list[FeatureDrift] = []
    left_out: list[str] = []
    for name in dict.fromkeys(name for unit in (*baseline.units, *units) for name in unit.features):
        feature = feature_of(name)
        now, before = (_parts(every, name) for every in (units, baseline.units))
        least = 1 if feature.kind is Kind.SCALAR else _LEAST_VALUES
        values = sum(part.size for part in now)
        if not before:
            left_out.append(f"{feature.label}: the training set does not hold it.")
        elif values < least:
            left_out.append(f"{feature.label}: {values} values are too few to compare.")
        else:
            found.append(_compared(feature, now, before))
    worst = max((feature.verdict for feature in found), key=Verdict.rank, default=Verdict.STABLE)
    return DriftReport(
        verdict=worst,
        sentence=_sentence(len(units), found, worst),
        units=len(units),
        training={"parts": len(baseline.units), "made_of": baseline.made_of},
        features=tuple(found),
        left_out=tuple(left_out),
    )


def _sentence(units: int, features: Sequence[FeatureDrift], worst: Verdict) -> str:
    what, looks, differs = ("1 unit", "looks", "differs") if units == 1 else (f"{units} units", "look", "differ")
    moved = [f.label for verdict in (Verdict.ALARM, Verdict.WATCH) for f in features if f.verdict is verdict]
    if not moved:
        return f"No drift: {what} {looks} like the training set in all {len(features)} features compared."
    word = "Drift alarm" if worst is Verdict.ALARM else "Drift to watch"
    return f"{word}: {what} {differs} from training in {len(moved)} of {len(features)} features: {', '.join(moved)}."


def _parts(units: Iterable[UnitStatistics], name: str) -> list[Histogram]:
    found = (unit.features.get(name) for unit in units)
    return [part for part in found if part is not None and part.size]


def _compared(feature: Feature, now: Sequence[Histogram], before: Sequence[Histogram]) -> FeatureDrift:
    window, training = Histogram.pooled(now), Histogram.pooled(before)

    def measured(distance: Distance, watch: float, alarm: float) -> Measure:
        usual = usual_distance(before, len(now), window.size, feature.kind, distance)
        value = float(distance(window.shares, training.shares))
        return Measure(*(round(v, 6) for v in (value, max(watch, usual), max(alarm, _MARGIN * usual))))

    ordered = bool(feature.edges)
    moved = partial(wasserstein, centres=feature.centres) if ordered else total_variation
    shift = measured(moved, feature.watch, feature.alarm)
    single = feature.kind is Kind.SCALAR
    psi = None if single else measured(population_stability_index, _PSI_WATCH, _PSI_ALARM)
    # A class that may grow has grown.
    index = feature.classes.index(feature.harmless) if feature.harmless else None
    harmless = index is not None and window.shares[index] >= training.shares[index]
    # The milder of what both distances say: a difference must be sure, and large enough to matter.
    verdict = min((measure.verdict for measure in (shift, psi) if measure), key=Verdict.rank)
    found = FeatureDrift(
        name=feature.name,
        label=feature.label,
        unit=feature.unit,
        values=window.size,
        mean=round(window.mean, 6) if ordered else None,
        training_mean=round(training.mean, 6) if ordered else None,
        psi=psi,
        shift=shift,
        shares=tuple(round(float(share), 5) for share in window.shares),
        training_shares=tuple(round(float(share), 5) for share in training.shares),
        verdict=Verdict.STABLE if harmless else verdict,
        sentence="",
    )
    return replace(found, sentence=_what_happened(found, feature.harmless if harmless else ""))


def _what_happened(found: FeatureDrift, harmless: str) -> str:
    unit = "" if found.unit in ("", "reflectance", "share") else found.unit
    if found.mean is None:
        what = f"{found.shift.value:.0%} of the pixels are of another class than in training"
        what += f", more of them {harmless}, which is harmless" if harmless else ""
    else:
        what = f"mean {found.mean:.3g}{unit} against {found.training_mean:.3g}{unit} in training"
    psi = f", stability index {found.psi.value:.2f} (alarm above {found.psi.alarm:.2f})" if found.psi else ""
    limit = f"shift {found.shift.value:.3g}{unit} (alarm above {found.shift.alarm:.3g}{unit})"
    return f"{found.label}: {what}, {limit}{psi}: {found.verdict}."


@unique
class Verdict(StrEnum):
    """How far things have moved, from near to far."""

    STABLE = "stable"
    WATCH = "watch"
    ALARM = "alarm"

    def rank(self) -> int:
        """Return 0 for stable to 2 for alarm."""
        return list(Verdict).index(self)


@dataclass(frozen=True, slots=True)
class Measure:
    """One distance with its thresholds."""

    value: float
    watch: float
    alarm: float

    @property
    def verdict(self) -> Verdict:
        """What this distance alone says."""
        if self.value > self.alarm:
            return Verdict.ALARM
        return Verdict.WATCH if self.value > self.watch else Verdict.STABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDrift:
    """One feature against the training set."""

    name: str
    label: str
    #: Of mean and shift; a share for classes.
    unit: str
    #: Values compared.
    values: int
    #: Mean now and in training; None for classes.
    mean: float | None
    training_mean: float | None
    #: Population stability index; None for features with one value per unit.
    psi: Measure | None
    #: Wasserstein distance in the feature's unit; for classes the total variation.
    shift: Measure
    #: Shares per bin, now and in training.
    shares: tuple[float, ...]
    training_shares: tuple[float, ...]
    verdict: Verdict
    #: What happened, for people.
    sentence: str

    @property
    def figures(self) -> dict[str, float | None]:
        """The figures that people compare, by name."""
        return {
            "mean": self.mean,
            "training_mean": self.training_mean,
            "psi": self.psi.value if self.psi else None,
            "psi_alarm": self.psi.alarm if self.psi else None,
            "shift": self.shift.value,
            "shift_alarm": self.shift.alarm,
        }

    @property
    def shown(self) -> list[str]:
        """The figures as text, in the same order."""
        return ["–" if value is None else f"{value:.3g}" for value in self.figures.values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """A window of units against the training set."""

    #: The worst of all features.
    verdict: Verdict
    sentence: str
    #: Units compared.
    units: int
    #: Number of `parts` of the training set, and what it was `made_of`.
    training: Mapping[str, Any]
    features: tuple[FeatureDrift, ...]
    #: Features that were not compared, with the reason.
    left_out: tuple[str, ...]

    def of(self, verdict: Verdict) -> tuple[FeatureDrift, ...]:
        """Return the features with a verdict."""
        return tuple(feature for feature in self.features if feature.verdict is verdict)

    @property
    def worst_first(self) -> list[FeatureDrift]:
        """The features in the order to read them."""
        return sorted(self.features, key=lambda feature: -feature.verdict.rank())

    @property
    def brief(self) -> dict[str, Any]:
        """The report as JSON values, without the shares per bin."""
        return asdict(replace(self, features=tuple(replace(f, shares=(), training_shares=()) for f in self.features)))


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
