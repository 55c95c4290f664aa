"""How the raw output of the weight network becomes W, the reference's share."""

from __future__ import annotations

from enum import StrEnum, unique
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@unique
class WeightMode(StrEnum):
    """How W is kept within [eta, 1]; a property of the weights, because training must know it."""

    #: The paper's: unlimited in training, clamped at inference (DE section 1.5).
    CLAMP = "clamp"
    #: `eta + (1 - eta) * sigmoid(raw)`, the same in training and at inference.
    BOUNDED = "bounded"


def limit(raw: Tensor, eta: float, mode: WeightMode) -> Tensor:
    """Return W in [eta, 1] at inference.

    Args:
        raw: output of the weight network, any shape, any value.
        eta: floor of the reference's share, 0..1; 1 gives exactly 1.
        mode: how it is limited.
    """
    if mode is WeightMode.CLAMP:
        return raw.clamp(eta, 1)
    return eta + (1 - eta) * raw.sigmoid()


def limit_in_training(raw: Tensor, eta: float, mode: WeightMode) -> Tensor:
    """Return W as the loss sees it: `clamp` does not limit there, as a clamped W has no gradient (DE section 1.5)."""
    return raw if mode is WeightMode.CLAMP else limit(raw, eta, mode)
