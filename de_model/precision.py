"""Number formats by name, for settings and command lines: without torch, which takes seconds to load."""

from __future__ import annotations

from enum import StrEnum, unique


@unique
class Precision(StrEnum):
    """Number format of the networks' activations; weights, losses, states of a walk and the optimiser stay float32."""

    FP32 = "fp32"
    BF16 = "bf16"
