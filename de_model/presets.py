"""Named sizes of the model; no PyTorch, so that a card can be read without it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique


@dataclass(frozen=True, slots=True)
class UNetConfig:
    """Shape of one U-Net, image channels excluded."""

    base: int
    multipliers: tuple[int, ...]
    res_blocks: int
    #: Downsampling factors with attention; the middle block always has it.
    attention_factors: tuple[int, ...]
    heads: int
    #: True: time scales and shifts the features (FiLM); False: time is added to them.
    film: bool
    groups: int = 32
    #: Side of the square within which attention is global, image pixels: what training saw.
    attention_window: int = 256

    @property
    def stride(self) -> int:
        """Total downsampling factor."""
        return 2 ** (len(self.multipliers) - 1)


@unique
class Preset(StrEnum):
    """Which sizes a model was built with."""

    #: The published configuration: 32.1 M + 4.7 M parameters for RGB (DE sections 2.1 and 2.2).
    PAPER = "paper"
    #: The same method sized for two CPU cores; the shipped weights.
    SMALL = "small"
    #: For tests: trains in seconds.
    TINY = "tiny"


@unique
class ReferenceKind(StrEnum):
    """What gives DE its reference."""

    #: A residual U-Net small enough for a laptop.
    LIGHT = "light"
    #: MPRNet, the published "MemoryNet" (DE section 7.1).
    MPRNET = "mprnet"
    #: MSDA-CR (DE section 7.2).
    MSDA = "msda"

    @property
    def stride(self) -> int:
        """Height and width of every input must be divisible by this."""
        return 4 if self is ReferenceKind.MSDA else 8


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the three networks."""

    predictor: UNetConfig
    allocation: UNetConfig
    #: Width of the `light` reference.
    reference_base: int
    #: Which reference a model of this preset has unless its card says otherwise.
    reference: ReferenceKind


SIZES: dict[Preset, Sizes] = {
    Preset.PAPER: Sizes(
        predictor=UNetConfig(96, (1, 1, 2, 2, 3), 2, (4, 8), heads=4, film=True),
        allocation=UNetConfig(64, (1, 1, 2), 2, (4,), heads=1, film=False),
        reference_base=64,
        reference=ReferenceKind.MPRNET,
    ),
    Preset.SMALL: Sizes(
        predictor=UNetConfig(24, (1, 2, 2, 3), 1, (8,), heads=4, film=True, groups=8, attention_window=128),
        allocation=UNetConfig(16, (1, 2, 2), 1, (4,), heads=1, film=False, groups=8, attention_window=128),
        reference_base=32,
        reference=ReferenceKind.LIGHT,
    ),
    Preset.TINY: Sizes(
        predictor=UNetConfig(16, (1, 2), 1, (2,), heads=2, film=True, groups=4, attention_window=32),
        allocation=UNetConfig(8, (1, 2), 1, (2,), heads=1, film=False, groups=4, attention_window=32),
        reference_base=8,
        reference=ReferenceKind.LIGHT,
    ),
}
