"""Settings of how results are judged: the gate before publishing, and the limits of drift."""

from __future__ import annotations

from dataclasses import fields

from pydantic import BaseModel, Field

from flows.drift.limits import DriftLimits
from flows.settings.kinds import GateMode
from stac.quality.gate import Gate, gate_document

_GATE, _DRIFT = Gate(), DriftLimits()


class JudgingSettings(BaseModel):
    """Thresholds; none of them changes a pixel."""

    gate: GateMode = Field(GateMode.ON, description="on: products that fail a threshold wait for review; off: none do")
    gate_max_residual_cloud: float = Field(_GATE.max_residual_cloud, ge=0, le=1, description="restored cloud, share")
    gate_min_sharpness: float = Field(_GATE.min_sharpness, ge=0, description="least detail against surroundings")
    gate_max_sharpness: float = Field(_GATE.max_sharpness, ge=0, description="most detail against surroundings")
    gate_max_colour_shift: float = Field(_GATE.max_colour_shift, ge=0, description="shift of a band, reflectance")
    gate_max_ndvi_shift: float = Field(_GATE.max_ndvi_shift, ge=0, description="shift of mean NDVI")
    gate_max_seam_ratio: float = Field(_GATE.max_seam_ratio, ge=0, description="steps across borders / beside them")
    gate_max_half_width: float = Field(_GATE.max_half_width, ge=0, description="mean half-width, reflectance")
    gate_max_not_recoverable: float = Field(_GATE.max_not_recoverable, ge=0, le=1, description="lost area, share")
    # Drift: it is told, and changes no pixel.
    drift_psi_watch: float = Field(_DRIFT.psi_watch, gt=0, description="least population stability index to watch")
    drift_psi_alarm: float = Field(_DRIFT.psi_alarm, gt=0, description="least population stability index of an alarm")
    drift_shift_scale: float = Field(_DRIFT.shift_scale, gt=0, description="factor on the least shift of every feature")
    drift_confidence: float = Field(_DRIFT.confidence, ge=0.5, lt=1, description="share of chance that stays quiet")
    drift_margin: float = Field(_DRIFT.margin, ge=1, description="an alarm needs so many times what chance reaches")
    drift_last: int = Field(20, ge=1, description="units that `unveil drift` looks at together")

    @property
    def quality_gate(self) -> Gate | None:
        """Thresholds of a product's quality; None where the gate is off. They change no pixel."""
        if self.gate is GateMode.OFF:
            return None
        return Gate(**{field.name: getattr(self, f"gate_{field.name}") for field in fields(Gate)})

    @property
    def drift_limits(self) -> DriftLimits:
        """Thresholds of drift."""
        return DriftLimits(
            psi_watch=self.drift_psi_watch,
            psi_alarm=self.drift_psi_alarm,
            shift_scale=self.drift_shift_scale,
            confidence=self.drift_confidence,
            margin=self.drift_margin,
        )

    @property
    def gate_limits(self) -> dict[str, float] | None:
        """The thresholds as JSON values; None where the gate is off."""
        gate = self.quality_gate
        return None if gate is None else gate_document(gate)
