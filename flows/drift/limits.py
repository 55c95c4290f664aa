"""How far a feature may move; every value is a setting."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftLimits:
    """Thresholds of drift. They change no pixel.

    A threshold is never below what chance alone reaches: windows of the baseline's own parts, as many as are judged,
    are drawn again and again, and `confidence` of them stay below it.
    """

    #: Least population stability index that is watched, and that alarms.
    psi_watch: float = 0.1
    psi_alarm: float = 0.25
    #: Factor on every feature's own least shift.
    shift_scale: float = 1.0
    #: Share of the windows drawn from the baseline that stay below the threshold of a watch.
    confidence: float = 0.99
    #: An alarm needs so many times the distance that chance reaches.
    margin: float = 1.5
    #: Neighbours are alike: so many pixels count as one independent value.
    correlation: int = 25
    #: Features of fewer values than this are not compared.
    least_values: int = 200
    #: Windows drawn.
    draws: int = 200
