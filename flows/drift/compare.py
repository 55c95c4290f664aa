"""Comparing a window of units with the training set of their model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from flows.drift.baseline import Baseline
from flows.drift.chance import Distance, usual_distance
from flows.drift.distances import kolmogorov_smirnov, population_stability_index, total_variation, wasserstein
from flows.drift.features import Feature, Kind, feature_of
from flows.drift.histogram import Histogram
from flows.drift.limits import DriftLimits
from flows.drift.statistics import UnitStatistics
from flows.drift.verdict import DriftReport, FeatureDrift, Measure


def compare(units: Sequence[UnitStatistics], baseline: Baseline, limits: DriftLimits) -> DriftReport:
    """Compare units, taken together, with a training set.

    Args:
        units: one or more.
        baseline: of the model that restored them.
        limits: thresholds.
    """
    found, left_out = [], []
    for name in names_of([*baseline.units, *units]):
        feature = feature_of(name)
        now, before = (_parts(every, name) for every in (units, baseline.units))
        least = 1 if feature.kind is Kind.SCALAR else limits.least_values
        values = sum(part.size for part in now)
        if not before:
            left_out.append(f"{feature.label}: the training set does not tell it.")
        elif values < least:
            left_out.append(f"{feature.label}: {values} values are too few to compare.")
        else:
            found.append(_compared(feature, now, before, limits))
    return DriftReport(len(units), len(baseline.units), baseline.made_of, tuple(found), tuple(left_out))


def names_of(units: Iterable[UnitStatistics]) -> list[str]:
    """Return the names of all features of some units, in the order in which they first appear."""
    return list(dict.fromkeys(name for unit in units for name in unit.features))


def _parts(units: Iterable[UnitStatistics], name: str) -> list[Histogram]:
    found = (unit.features.get(name) for unit in units)
    return [part for part in found if part is not None and part.size]


def _compared(
    feature: Feature, now: Sequence[Histogram], before: Sequence[Histogram], limits: DriftLimits
) -> FeatureDrift:
    window, training = Histogram.pooled(now), Histogram.pooled(before)

    def measured(distance: Distance, watch: float, alarm: float) -> Measure:
        usual = usual_distance(before, len(now), window.size, feature.kind, distance, limits)
        value = float(distance(window.shares, training.shares))
        return Measure(*(round(v, 6) for v in (value, max(watch, usual), max(alarm, limits.margin * usual))))

    ordered = bool(feature.edges)
    moved = partial(wasserstein, centres=feature.centres) if ordered else total_variation
    single = feature.kind is Kind.SCALAR
    return FeatureDrift(
        name=feature.name,
        values=window.size,
        mean=round(window.mean, 6) if ordered else None,
        training_mean=round(training.mean, 6) if ordered else None,
        psi=None if single else measured(population_stability_index, limits.psi_watch, limits.psi_alarm),
        shift=measured(moved, feature.watch * limits.shift_scale, feature.alarm * limits.shift_scale),
        ks=round(float(kolmogorov_smirnov(window.shares, training.shares)), 6) if ordered else None,
        shares=tuple(round(float(share), 5) for share in window.shares),
        training_shares=tuple(round(float(share), 5) for share in training.shares),
    )
