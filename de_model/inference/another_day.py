"""What another, clear day shows below the clouds of an image that stands alone.

The ground between clouds is not the ground of a clear day: haze and light from the clouds lie over it. How much is
guessed from that ground itself, without any other date.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from de_model.scene.design import AnotherDay
from de_model.scene.observation import Levels, thinned

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: What hides the ground is cloud where it exceeds the clear level by this in the visible bands, reflectance.
_CLOUDY = 0.01
#: Percentile of clear ground that is its darkest.
_DARKEST = 2
#: Where even the darkest ground is brighter in red, as sand and snow are, its blue says nothing of haze; reflectance.
_DARK = 0.12
#: Haze is taken for this at most, and the near infrared is moved by this at most, reflectance.
_MOST_HAZE, _MOST_MOVED = 0.04, 0.06
#: A scene is not vegetated below the first NDVI, and wholly from the second one on.
_VEGETATED = 0.2, 0.4


def on_another_day(
    image: FloatArray, scene: FloatArray, hidden: BoolArray, levels: Levels, bands: Sequence[str], expected: AnotherDay
) -> FloatArray:
    """Return what a clear day would show where clouds were taken away; the image itself where there were none.

    Args:
        image: restored reflectance `(band, y, x)`, NaN where nothing was wanted.
        scene: as observed.
        hidden: `(y, x)`, what does not show the ground.
        levels: of the scene.
        bands: by common name.
        expected: of the model's card.
    """
    if expected == AnotherDay() or not is_cloud(scene, hidden, levels):
        return image
    median, _ = levels.columns()
    moved = level_shift(scene, ~hidden, levels, bands, expected)
    return np.clip(median + expected.share * (image - median) + moved[:, None, None], 0, 1).astype(np.float32)


def is_cloud(scene: FloatArray, hidden: BoolArray, levels: Levels) -> bool:
    """Return whether what hides the ground is brighter than it; a gap, or what is not known to be hidden, is not."""
    if not hidden.any():
        return False
    median, _ = levels.columns()
    excess = scene[:3, hidden] - median[:3, 0]
    return bool(np.nanmedian(excess) > _CLOUDY) if np.isfinite(excess).any() else False


def level_shift(
    scene: FloatArray, clear: BoolArray, levels: Levels, bands: Sequence[str], expected: AnotherDay
) -> FloatArray:
    """Return what a clear day adds to the level of every band, reflectance `(band,)`.

    Haze is what the darkest ground has more of in blue than clear air gives it (dark-object subtraction, Chavez 1988).
    The near infrared of vegetation is drawn towards its usual level, as what differs most from it is due to the day.

    Args:
        scene: as observed, reflectance `(band, y, x)`.
        clear: `(y, x)`.
        levels: of the clear ground.
        bands: by common name; without blue and red nothing is known of haze, without near infrared of vegetation.
        expected: of the model's card.
    """
    at, found = {name: index for index, name in enumerate(bands)}, np.zeros(len(bands), np.float32)
    if not {"blue", "red"} <= at.keys():
        return found
    pixels = thinned(scene, clear)
    if pixels is None:
        return found
    blue, red = (float(np.percentile(pixels[at[name]], _DARKEST)) for name in ("blue", "red"))
    haze = float(np.clip(blue - red / 2 - expected.clear_air, 0, _MOST_HAZE)) if red < _DARK else 0.0
    for name, factor in zip(("blue", "green", "red"), expected.haze, strict=True):
        if name in at:
            found[at[name]] = -factor * haze
    if "nir" in at:
        nir, low = levels.median[at["nir"]], levels.median[at["red"]]
        green = np.interp((nir - low) / max(nir + low, 1e-6), _VEGETATED, (0, 1))
        usual, share = expected.vegetation
        found[at["nir"]] = np.clip(share * green * (usual - nir), -_MOST_MOVED, _MOST_MOVED)
    return found
