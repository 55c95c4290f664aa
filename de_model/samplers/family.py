"""The samplers by name."""

from __future__ import annotations

from enum import StrEnum, unique

from de_model.errors import InvalidModelInput
from de_model.samplers.ddim import ddim
from de_model.samplers.multistep import dpmpp2m, unipc
from de_model.samplers.pyramid import pyramid, scales_of
from de_model.samplers.walk import Sampler


@unique
class SamplerKind(StrEnum):
    """How the walk from noise to image is made."""

    #: First order, every step at full size: the paper's.
    DDIM = "ddim"
    #: DPM-Solver++(2M): second order, for few steps.
    DPMPP2M = "dpmpp2m"
    #: UniPC: second order with a corrector, for few steps.
    UNIPC = "unipc"
    #: DDIM from a quarter of the size to full size.
    PYRAMID = "pyramid"


_SAMPLERS: dict[SamplerKind, Sampler] = {
    SamplerKind.DDIM: ddim,
    SamplerKind.DPMPP2M: dpmpp2m,
    SamplerKind.UNIPC: unipc,
    SamplerKind.PYRAMID: pyramid,
}


def sampler_kind(name: str) -> SamplerKind:
    """Return the sampler called `name`.

    Raises:
        InvalidModelInput: there is none.
    """
    try:
        return SamplerKind(name)
    except ValueError as error:
        raise InvalidModelInput(f"Sampler {name} is unknown; choose one of {', '.join(SamplerKind)}.") from error


def sampler_of(kind: SamplerKind) -> Sampler:
    """Return the function of a sampler."""
    return _SAMPLERS[kind]


def coarsest_scale(kind: SamplerKind, steps: int) -> int:
    """Return the factor by which the smallest image of a walk is smaller than a tile."""
    return scales_of(steps)[0] if kind is SamplerKind.PYRAMID else 1
