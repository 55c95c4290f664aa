"""Which network a reference's name stands for, and the one that has none."""

from __future__ import annotations

from torch import Tensor

from de_model.errors import InvalidModelInput
from de_model.presets import ReferenceKind, Sizes
from de_model.references.base import Reference
from de_model.references.light import LightReference
from de_model.references.mprnet import MprnetReference
from de_model.references.msda import MsdaReference


class CompositeReference(Reference):
    """Holds no weights; the image is given to `Enhancer.condition` as `reference_unit`."""

    stride = 1
    external = True

    def _stages(self, cloudy: Tensor) -> tuple[Tensor, ...]:
        raise InvalidModelInput(
            f"This model has no reference network: give the composite of {tuple(cloudy.shape)} as reference_unit."
        )


def build_reference(kind: ReferenceKind, bands: int, sizes: Sizes) -> Reference:
    """Return an untrained reference; only `light` depends on the preset's sizes, the others are as published."""
    match kind:
        case ReferenceKind.LIGHT:
            return LightReference(bands, sizes.reference_base)
        case ReferenceKind.MPRNET:
            return MprnetReference(bands)
        case ReferenceKind.MSDA:
            return MsdaReference(bands)
        case ReferenceKind.COMPOSITE:
            return CompositeReference(bands)
