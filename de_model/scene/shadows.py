"""Shadows of clouds in an image that stands alone: ground that says nothing of how the rest looks in the sun."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from de_model.scene.observation import thinned

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Clouds throw shadows so far, metres: 2 km high, with the sun 35 degrees above the horizon.
_REACH_M = 3000.0
#: The reach is measured in blocks of a sixteenth of it.
_BLOCKS = 16
#: Sunlit ground is the upper quartile of the near infrared; vegetation in shadow has less than this share of it.
_SUNLIT, _SHARE = 75, 0.55
#: Below this NDVI dark ground may be anything.
_VEGETATED = 0.4


def shadows_beside(scene: FloatArray, cloud: BoolArray, bands: Sequence[str], gsd_m: float) -> BoolArray:
    """Return the pixels `(y, x)` beside clouds that are dark in the near infrared and in green, in a vegetated scene.

    Some of them are water or forest; they are missed less than shadows are taken for ground.

    Args:
        scene: reflectance `(band, y, x)` as observed, NaN at nodata.
        cloud: `(y, x)`.
        bands: by common name; without green, red and near infrared none is found.
        gsd_m: side of a pixel, metres.
    """
    pixels, nothing = thinned(scene, ~cloud), np.zeros_like(cloud)
    if not {"green", "red", "nir"} <= set(bands) or not cloud.any() or pixels is None:
        return nothing
    green, red, nir = (list(bands).index(name) for name in ("green", "red", "nir"))
    sunlit = float(np.percentile(pixels[nir], _SUNLIT))
    usual_green, usual_red = (float(np.median(pixels[band])) for band in (green, red))
    if sunlit - usual_red < _VEGETATED * (sunlit + usual_red):
        return nothing
    # Comparisons with nodata, which is NaN, are false.
    dark = (scene[nir] < _SHARE * sunlit) & (scene[green] < usual_green)
    return np.asarray(dark & ~cloud & _beside(cloud, _REACH_M / gsd_m), bool)


def _beside(cloud: BoolArray, reach: float) -> BoolArray:
    """Return the pixels within a reach of a cloud, pixels, to a sixteenth of it."""
    side = max(1, int(reach / _BLOCKS))
    height, width = cloud.shape
    padded = np.pad(cloud, ((0, -height % side), (0, -width % side)))
    blocks = padded.reshape(padded.shape[0] // side, side, -1, side).any(axis=(1, 3))
    near = distance_transform_edt(~blocks) * side <= reach
    return np.asarray(near.repeat(side, axis=0).repeat(side, axis=1)[:height, :width], bool)
