"""References made worse at random while the weight network learns how far to trust them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from de_model.errors import InvalidModelInput
from de_model.references.degraded import STRONGEST, Degradation, degrade, draw_degradation


@dataclass(frozen=True, slots=True)
class RandomDegradation:
    """Leaves a reference as it is with probability `untouched`, else makes it worse by up to `strongest`."""

    strongest: Degradation = STRONGEST
    untouched: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.untouched <= 1:
            raise InvalidModelInput(f"The share of untouched references is {self.untouched}; it must lie in 0..1.")

    def __call__(self, reference: Tensor, cloudy: Tensor, random: torch.Generator) -> Tensor:
        """Return the reference, perhaps made worse; images `(1, band, y, x)` companded to [0, 1]."""
        return degrade(reference, cloudy, draw_degradation(random, self.strongest, self.untouched), random)
