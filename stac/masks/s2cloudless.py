"""s2cloudless: the probability of cloud from ten Sentinel-2 bands at the top of the atmosphere.

The model is the one that ships with the `s2cloudless` package (LightGBM, text file; Skakun et al. 2022,
https://doi.org/10.1016/j.rse.2022.112990, compares it with others). It judges single pixels, so a window's mask is the
window of the mask; smoothing and growing is left to `stac.masks.dilation`. It tells clouds, thin ones included, but no
shadow, and says nothing about how thick a cloud is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stac.errors import MissingExtra
from stac.masks.classes import PixelClass
from stac.masks.method import MaskInput, MaskMethod

#: Bands in the model's order, by the band's number and its common name.
BANDS = (
    ("B01", "coastal"),
    ("B02", "blue"),
    ("B04", "red"),
    ("B05", "rededge1"),
    ("B08", "nir"),
    ("B8A", "nir08"),
    ("B09", "nir09"),
    ("B10", "cirrus"),
    ("B11", "swir16"),
    ("B12", "swir22"),
)
#: Probability from which a pixel is cloud: the package's own.
THRESHOLD = 0.4
#: Pixels judged at once; bounds the memory of the model's input.
_CHUNK = 1_000_000


@lru_cache(maxsize=1)
def _detector() -> Any:
    try:
        from s2cloudless import S2PixelCloudDetector
    except ImportError as error:
        raise MissingExtra("Mask s2cloudless needs the package s2cloudless; install unveil-eo[masks].") from error
    return S2PixelCloudDetector(threshold=THRESHOLD, all_bands=False, average_over=None, dilation_size=None)


def cloud_probability(reflectance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probability of cloud `(y, x)`, 0..1, NaN where a band is.

    Args:
        reflectance: top of the atmosphere `(band, y, x)`, about 0-1, NaN where nodata; bands as in `BANDS`.

    Raises:
        MissingExtra: the package is not installed.
    """
    pixels = reflectance.reshape(len(BANDS), -1).T
    found = np.full(len(pixels), np.nan, np.float32)
    known = np.flatnonzero(np.isfinite(pixels).all(axis=1))
    for start in range(0, len(known), _CHUNK):
        part = known[start : start + _CHUNK]
        found[part] = _detector().get_cloud_probability_maps(pixels[part][None, None].astype(np.float64))[0, 0]
    return found.reshape(reflectance.shape[1:])


def _classify(layers: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    probability = cloud_probability(np.stack(layers))
    found = np.where(probability > THRESHOLD, PixelClass.CLOUD, PixelClass.CLEAR).astype(np.uint8)
    found[np.isnan(probability)] = PixelClass.NODATA
    return found


# An item of Level 2 may bring the bands of its Level-1C scene along under `toa-...`.
S2CLOUDLESS = MaskMethod(
    tuple(MaskInput((f"toa-{name}", name, number), reflectance=True) for number, name in BANDS),
    frozenset({PixelClass.CLOUD}),
    _classify,
    top_of_atmosphere=True,
)
