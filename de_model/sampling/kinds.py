"""The samplers by name, for settings and command lines: without torch, which takes seconds to load."""

from __future__ import annotations

from enum import StrEnum, unique

from de_model.errors import InvalidModelInput


@unique
class SamplerKind(StrEnum):
    """How sampling goes from noise to an image."""

    #: First order, every step at full size: the paper's.
    DDIM = "ddim"
    #: DPM-Solver++(2M): second order, for few steps.
    DPMPP2M = "dpmpp2m"
    #: DDIM from a quarter of the size to full size.
    PYRAMID = "pyramid"


def sampler_kind(name: str) -> SamplerKind:
    """Return the sampler called `name`.

    Raises:
        InvalidModelInput: there is none.
    """
    try:
        return SamplerKind(name)
    except ValueError as error:
        raise InvalidModelInput(f"Sampler {name} is unknown; choose one of {', '.join(SamplerKind)}.") from error


def check_steps(steps: int, start: int | None, timesteps: int) -> None:
    """Raise `InvalidModelInput` unless so many evaluations can be made of `timesteps`, or from `start` down to 0."""
    if start is not None and not 0 <= start < timesteps:
        raise InvalidModelInput(f"Start at timestep {start}; choose 0 to {timesteps - 1}.")
    available = timesteps if start is None else start + 1
    if not 1 <= steps <= available:
        raise InvalidModelInput(f"{steps} sampling steps asked of {available}; choose 1 to {available}.")


def scales_of(steps: int) -> list[int]:
    """Return the factor by which each step's image is smaller: of 10 steps six at 4, two at 2, two at 1.

    Other numbers of steps are divided in these shares, rounded; the last step always has full size (DE section 4).
    """
    quarter, half = (6 * steps + 5) // 10, (8 * steps + 5) // 10
    return [4 if i < quarter else 2 if i < half else 1 for i in range(steps - 1)] + [1]


def coarsest_scale(kind: SamplerKind, steps: int) -> int:
    """Return the factor by which the smallest image of a sampling schedule is smaller than a tile."""
    return scales_of(steps)[0] if kind is SamplerKind.PYRAMID else 1
