"""The gate between a product that is published as good and one that a person must look at first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from stac.quality.figures import GroupFigures, QualityFigures
from stac.quality.parts import EVERYTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Thresholds. The defaults leave a margin to the four products of the sample (docs/product.md)."""

    #: Share of restored pixels that may look like cloud.
    max_residual_cloud: float = 0.02
    #: Fine detail of restored ground against its surroundings: blur below, invented texture above.
    min_sharpness: float = 0.4
    max_sharpness: float = 2.0
    #: Largest colour shift of any band, reflectance.
    max_colour_shift: float = 0.15
    #: Absolute shift of mean NDVI.
    max_ndvi_shift: float = 0.15
    #: Step across the borders between classes / steps beside them.
    max_seam_ratio: float = 3.0
    #: Mean half-width of the 90 % interval, reflectance.
    max_half_width: float = 0.1
    #: Share of the area with data that could not be restored.
    max_not_recoverable: float = 0.1


@dataclass(frozen=True, slots=True)
class Check:
    """One figure against its bounds."""

    name: str
    label: str
    #: None where the figure is not defined: then it is not judged.
    value: float | None
    lowest: float | None
    highest: float | None

    @property
    def passed(self) -> bool | None:
        """Whether the figure keeps its bounds; None where it was not judged."""
        if self.value is None:
            return None
        return not ((self.lowest is not None and self.value < self.lowest) or self._above)

    @property
    def _above(self) -> bool:
        return self.value is not None and self.highest is not None and self.value > self.highest

    @property
    def reason(self) -> str:
        """Why the figure does not pass, a sentence."""
        bound, side = (self.highest, "above") if self._above else (self.lowest, "below")
        return f"{self.label} is {self.value:.3g}, {side} the limit of {bound:g}."


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """True unless a figure that is defined breaks its bounds."""
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the product does not pass, one sentence each."""
        return tuple(check.reason for check in self.checks if check.passed is False)

    def document(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        checks = [asdict(check) | {"passed": check.passed} for check in self.checks]
        return {"passed": self.passed, "reasons": list(self.reasons), "checks": checks}


def judge(figures: QualityFigures, gate: Gate) -> Verdict:
    """Hold figures against thresholds. A figure that is not defined is not judged."""
    restored = figures.groups.get(EVERYTHING)

    def of(read: Callable[[GroupFigures], float | None]) -> float | None:
        return None if restored is None else read(restored)

    ndvi = of(lambda g: g.ndvi_shift)
    return Verdict(
        (
            Check("residual_cloud", "Residual cloud", of(lambda g: g.residual_cloud), None, gate.max_residual_cloud),
            Check("sharpness", "Sharpness", of(lambda g: g.sharpness), gate.min_sharpness, gate.max_sharpness),
            Check("colour_shift", "Largest colour shift", of(lambda g: g.largest_shift), None, gate.max_colour_shift),
            Check("ndvi_shift", "NDVI shift", ndvi and abs(ndvi), None, gate.max_ndvi_shift),
            Check("seam_ratio", "Seam ratio", figures.seam_ratio, None, gate.max_seam_ratio),
            Check(
                "half_width",
                "Mean half-width of the interval",
                of(lambda g: g.half_width_mean),
                None,
                gate.max_half_width,
            ),
            Check("not_recoverable", "Share not recoverable", figures.not_recoverable, None, gate.max_not_recoverable),
        )
    )
