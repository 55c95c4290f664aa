"""Gaps filled from the ground around them, without a model: what products fall back on where it is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rasterio.fill import fillnodata

from de_model.metrics.baselines import REACH_PX, Interpolated, interpolated
from de_model.validation import GAP_FILLERS, Filler, KindCode, PixelKind

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: GDAL's passes of a 3 x 3 mean over what it filled in; each looks one pixel further.
_SMOOTHING = 2


def inverse_distance(scene: FloatArray, known: BoolArray, level: Sequence[float]) -> FloatArray:
    """Fill a scene with GDAL's `fillnodata`: known pixels in all directions, weighed by their distance, then smoothed.

    Args:
        scene: reflectance `(band, y, x)`; only its known pixels are looked at.
        known: `(y, x)`.
        level: per band, what is taken where nothing is known within `REACH_PX`.
    """
    colour = np.asarray(level, np.float32)[:, None, None]
    holes, mask = np.where(known, scene, colour).astype(np.float32), known.astype(np.uint8)
    reach = REACH_PX - _SMOOTHING
    filled = [fillnodata(band, mask, max_search_distance=reach, smoothing_iterations=_SMOOTHING) for band in holes]
    return np.stack(filled).astype(np.float32)


def by_filler(kinds: NDArray[np.uint8], fillers: Mapping[PixelKind, Filler]) -> dict[Filler, BoolArray]:
    """Return the pixels `(y, x)` of every filler of gaps.

    Args:
        kinds: `KindCode` of every pixel `(y, x)`, 0 where nothing is needed.
        fillers: of kinds; the model fills those that are left out.
    """
    chosen = {code: fillers.get(code.kind, Filler.DE) for code in KindCode}
    return {name: np.isin(kinds, [code for code, own in chosen.items() if own is name]) for name in GAP_FILLERS}


def without_model(where: Mapping[Filler, BoolArray]) -> BoolArray:
    """Return the pixels `(y, x)` of all fillers that need no model."""
    return np.asarray(np.logical_or.reduce([pixels for name, pixels in where.items() if not name.of_model]))


def filled_around(
    scene: FloatArray, known: BoolArray, level: Sequence[float], where: Mapping[Filler, BoolArray]
) -> Interpolated:
    """Fill pixels from the ground around, each with the filler it is left to; of no value elsewhere.

    Args:
        scene: reflectance `(band, y, x)`.
        known: `(y, x)`, where the ground is known.
        level: one colour, where nothing is near.
        where: pixels `(y, x)` of every filler (`by_filler`).
    """
    smooth = interpolated(scene, known, level)
    sharp, flat = where[Filler.FILLNODATA], where[Filler.FLAT]
    if sharp.any():
        smooth.image[:, sharp] = inverse_distance(scene, known, level)[:, sharp]
    smooth.image[:, flat] = np.asarray(level, np.float32)[:, None]
    return smooth
