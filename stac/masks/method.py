"""What every kind of mask says about itself: what it reads, what it can tell, how it decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stac.masks.classes import PixelClass


@dataclass(frozen=True, slots=True)
class MaskInput:
    """A layer that a mask reads."""

    #: Names of the asset, the first that the item has is read.
    names: tuple[str, ...]
    #: Value outside the file; for reflectance the item's own nodata is used.
    nodata: int = 0
    #: Reflectance, so scale and offset are decided; else the values of a classification.
    reflectance: bool = False


@dataclass(frozen=True, slots=True)
class MaskMethod:
    """A kind of mask."""

    inputs: tuple[MaskInput, ...]
    #: What it can tell from clear ground. Of other classes it says nothing, also when it says clear.
    sees: frozenset[PixelClass]
    #: From the layers `(y, x)` in the order of `inputs` (archived values, or float32 reflectance with NaN where
    #: nodata) to `PixelClass` values `(y, x)`.
    classify: Callable[[Sequence[NDArray[Any]]], NDArray[np.uint8]]
    #: The layers must be reflectance at the top of the atmosphere (Level-1C).
    top_of_atmosphere: bool = False
