"""How reflectance becomes network input: square-root companding.

Land at 0-0.4 would use a fifth of a linear [0, 1] range shared with clouds; the square root gives dark
surfaces more of it while bright targets stay representable up to reflectance 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

#: Name stored in checkpoints; a checkpoint with another one is refused.
COMPANDING = "sqrt[0,1]"


def to_unit(reflectance: Tensor) -> Tensor:
    """Return companded [0, 1] from reflectance; values outside [0, 1] are clipped."""
    return reflectance.clamp(0, 1).sqrt()


def from_unit(unit: Tensor) -> Tensor:
    """Return reflectance in [0, 1] from companded values; the inverse of `to_unit`."""
    return unit.clamp(0, 1).square()


def to_signed(unit: Tensor) -> Tensor:
    """Return [-1, 1], the range of the diffusion, from [0, 1], the range of the reference."""
    return unit * 2 - 1


def to_unsigned(signed: Tensor) -> Tensor:
    """Return [0, 1] from [-1, 1]."""
    return (signed + 1) / 2
