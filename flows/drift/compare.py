"""Compare two sets of statistics: distances, chance, verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum, unique
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.drift.baseline import Baseline
from flows.drift.statistics import Feature, Histogram, Kind, UnitStatistics, feature_of
from flows.settings.fields import DriftLimits

Array = NDArray[np.float64]

#: Share that an empty bin counts as: the index has no value for none at all.
_LEAST_SHARE = 1e-4


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


def kolmogorov_smirnov(now: Array, before: Array) -> Array:
    """Return the largest difference of cumulative shares at the edges of the bins, 0..1."""
    return np.asarray(np.abs(np.cumsum(now - before, axis=-1)).max(axis=-1))


def total_variation(now: Array, before: Array) -> Array:
    """Return the share that would have to change its class, 0..1; for classes without an order."""
    return np.asarray(np.abs(now - before).sum(axis=-1) / 2)


def _without_zeros(shares: Array) -> Array:
    raised = np.maximum(shares, _LEAST_SHARE)
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


Distance = Callable[[Array, Array], Array]


def usual_distance(
    parts: Sequence[Histogram], units: int, values: int, kind: Kind, distance: Distance, limits: DriftLimits
) -> float:
    """Return the distance that `confidence` of the windows drawn from a baseline do not exceed.

    A bootstrap over parts (Efron 1979; parts rather than pixels, because pixels of one date are alike): both the
    window and what it is compared with are drawn anew with replacement. The window is then thinned to the number
    of independent values that are judged. The same arguments give the same number.

    Args:
        parts: the distributions of the baseline's parts.
        units: parts in a window.
        values: values in the window that is judged.
        kind: of the feature; single values are not thinned.
        distance: of shares `(..., bin)`.
        limits: how many draws, and how many pixels count as one value.
    """
    rng = np.random.default_rng(0)
    counts = np.array([part.counts for part in parts], np.float64)
    even = np.full(len(parts), 1 / len(parts))
    window = _shares(rng.multinomial(units, even, limits.draws) @ counts)
    reference = _shares(rng.multinomial(len(parts), even, limits.draws) @ counts)
    if kind is not Kind.SCALAR:
        independent = max(values // limits.correlation, 1)
        window = rng.multinomial(independent, window) / independent
    return float(np.quantile(distance(window, reference), limits.confidence))


def _shares(counts: Array) -> Array:
    return np.asarray(counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1))


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
            left_out.append(f"{feature.label}: the training set does not hold it.")
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


@unique
class Verdict(StrEnum):
    """How far things have moved, from near to far."""

    STABLE = "stable"
    WATCH = "watch"
    ALARM = "alarm"

    @property
    def rank(self) -> int:
        """0 for stable to 2 for alarm."""
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
    #: Values compared.
    values: int
    #: Mean now and in training, in the feature's unit; None for classes.
    mean: float | None
    training_mean: float | None
    #: Population stability index; None for features with one value per unit.
    psi: Measure | None
    #: Wasserstein distance in the feature's unit; for classes the total variation.
    shift: Measure
    #: Largest difference of cumulative shares; None for classes. It is shown, not judged.
    ks: float | None
    #: Shares per bin, now and in training.
    shares: tuple[float, ...]
    training_shares: tuple[float, ...]

    @property
    def harmless(self) -> bool:
        """Whether what grew is a class that may grow."""
        feature = feature_of(self.name)
        if not feature.harmless:
            return False
        index = feature.classes.index(feature.harmless)
        return self.shares[index] >= self.training_shares[index]

    @property
    def verdict(self) -> Verdict:
        """The milder of what both distances say: a difference must be sure, and large enough to matter."""
        if self.harmless:
            return Verdict.STABLE
        found = [self.shift.verdict] + ([self.psi.verdict] if self.psi else [])
        return min(found, key=lambda verdict: verdict.rank)

    @property
    def sentence(self) -> str:
        """What happened, for people."""
        feature = feature_of(self.name)
        unit = "" if feature.unit in ("", "reflectance", "share") else feature.unit
        if feature.kind is Kind.CLASSES:
            what = f"{self.shift.value:.0%} of the pixels are of another class than in training"
            what += f", more of them {feature.harmless}, which is harmless" if self.harmless else ""
        else:
            what = f"mean {self.mean:.3g}{unit} against {self.training_mean:.3g}{unit} in training"
        psi = f", stability index {self.psi.value:.2f} (alarm above {self.psi.alarm:.2f})" if self.psi else ""
        limit = f"shift {self.shift.value:.3g}{unit} (alarm above {self.shift.alarm:.3g}{unit})"
        return f"{feature.label}: {what}, {limit}{psi}: {self.verdict}."

    def document(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return asdict(self) | {
            "label": feature_of(self.name).label,
            "unit": feature_of(self.name).unit,
            "verdict": self.verdict.value,
            "sentence": self.sentence,
        }


@dataclass(frozen=True, slots=True)
class DriftReport:
    """A window of units against the training set."""

    #: Units compared.
    units: int
    #: Parts of the training set, and what it was.
    parts: int
    made_of: str
    features: tuple[FeatureDrift, ...]
    #: Features that were not compared, with the reason.
    left_out: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of all features."""
        return max((f.verdict for f in self.features), key=lambda verdict: verdict.rank, default=Verdict.STABLE)

    def of(self, verdict: Verdict) -> tuple[FeatureDrift, ...]:
        """Return the features with a verdict."""
        return tuple(feature for feature in self.features if feature.verdict is verdict)

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        moved = [*self.of(Verdict.ALARM), *self.of(Verdict.WATCH)]
        what, looks, differs = (
            ("1 unit", "looks", "differs") if self.units == 1 else (f"{self.units} units", "look", "differ")
        )
        if not moved:
            return f"No drift: {what} {looks} like the training set in all {len(self.features)} features compared."
        names = ", ".join(feature_of(feature.name).label for feature in moved)
        word = {Verdict.ALARM: "Drift alarm", Verdict.WATCH: "Drift to watch"}[self.verdict]
        return f"{word}: {what} {differs} from training in {len(moved)} of {len(self.features)} features: {names}."

    def document(self, *, shares: bool = True) -> dict[str, Any]:
        """Return the report as JSON values, with the shares per bin unless they are left out."""
        hidden = () if shares else ("shares", "training_shares")
        return {
            "verdict": self.verdict.value,
            "sentence": self.sentence,
            "units": self.units,
            "training": {"parts": self.parts, "made_of": self.made_of},
            "features": [
                {name: value for name, value in feature.document().items() if name not in hidden}
                for feature in self.features
            ],
            "left_out": list(self.left_out),
        }
