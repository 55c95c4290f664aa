"""The functions of the samplers."""

from __future__ import annotations

from de_model.samplers.ddim import ddim
from de_model.samplers.kinds import SamplerKind
from de_model.samplers.multistep import dpmpp2m, unipc
from de_model.samplers.pyramid import pyramid
from de_model.samplers.walk import Sampler

_SAMPLERS: dict[SamplerKind, Sampler] = {
    SamplerKind.DDIM: ddim,
    SamplerKind.DPMPP2M: dpmpp2m,
    SamplerKind.UNIPC: unipc,
    SamplerKind.PYRAMID: pyramid,
}


def sampler_of(kind: SamplerKind) -> Sampler:
    """Return the function of a sampler."""
    return _SAMPLERS[kind]
