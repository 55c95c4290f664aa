"""The `composite` reference: an image made elsewhere, of other dates, takes the network's place."""

from __future__ import annotations

from torch import Tensor

from de_model.errors import InvalidModelInput
from de_model.references.base import Reference


class CompositeReference(Reference):
    """Holds no weights; the image is given to `Enhancer.condition` as `reference_unit`."""

    stride = 1
    external = True

    def _stages(self, cloudy: Tensor) -> tuple[Tensor, ...]:
        raise InvalidModelInput(
            f"This model has no reference network: give the composite of {tuple(cloudy.shape)} as reference_unit."
        )
