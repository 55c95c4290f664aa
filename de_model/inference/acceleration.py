"""Options of speed, by name: what settings hold and products record, without torch, which takes seconds to load."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum, unique
from typing import Any


@unique
class Precision(StrEnum):
    """Number format of the networks' activations; weights, losses, sampling and the optimiser stay float32."""

    FP32 = "fp32"
    BF16 = "bf16"


@dataclass(frozen=True, slots=True)
class Acceleration:
    """How the networks are run. What differs from the defaults changes at least the last bits of a result.

    What each gains, and what it costs in quality, is measured by `python -m benchmarks.engine`.
    """

    #: Channels innermost in memory, the layout that convolutions are fastest in.
    channels_last: bool = True
    #: Number format of activations. Tiles whose values leave its range are run again in float32.
    precision: Precision = Precision.FP32
    #: Networks compiled by torch; eager where the machine cannot compile.
    compiled: bool = False

    @property
    def recorded(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON values: part of a product's identity."""
        default = asdict(DEFAULT)
        return {name: value for name, value in asdict(self).items() if value != default[name]}


DEFAULT = Acceleration()
