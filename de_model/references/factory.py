"""Which network stands behind which name."""

from __future__ import annotations

from de_model.presets import ReferenceKind, Sizes
from de_model.references.base import Reference
from de_model.references.composite import CompositeReference
from de_model.references.light import LightReference
from de_model.references.mprnet import MprnetReference
from de_model.references.msda import MsdaReference


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
