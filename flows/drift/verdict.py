"""What a comparison says: per feature and in all, in numbers and in plain words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum, unique
from typing import Any

from flows.drift.features import Kind, feature_of


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
    #: Largest difference of cumulative shares; None for classes. It is told, not judged.
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
