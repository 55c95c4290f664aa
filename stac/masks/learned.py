"""Masks computed from the pixels: the interface, s2cloudless and OmniCloudMask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stac.errors import MissingExtra
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
    #: What it can distinguish from clear ground. Of other classes it says nothing, also when it says clear.
    sees: frozenset[PixelClass]
    #: From the layers `(y, x)` in the order of `inputs` (archived values, or float32 reflectance with NaN where
    #: nodata) to `PixelClass` values `(y, x)`.
    classify: Callable[[Sequence[NDArray[Any]]], NDArray[np.uint8]]
    #: The layers must be reflectance at the top of the atmosphere (Level-1C).
    top_of_atmosphere: bool = False


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


#: The package's classes: clear, thick cloud, thin cloud, shadow.
_TABLE = np.array([PixelClass.CLEAR, PixelClass.CLOUD, PixelClass.THIN_CLOUD, PixelClass.SHADOW], np.uint8)


def _omnicloudmask_classify(layers: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    try:
        from omnicloudmask import predict_from_array
    except ImportError as error:
        raise MissingExtra(
            "Mask omnicloudmask needs the package omnicloudmask; install unveil-eo[omnicloudmask]."
        ) from error
    pixels = np.stack(layers).astype(np.float32)
    missing = ~np.isfinite(pixels).all(axis=0)
    # The package normalises by itself and takes 0 for nodata.
    found: NDArray[np.uint8] = _TABLE[
        np.asarray(predict_from_array(np.where(missing, np.float32(0), pixels)))[0].astype(np.intp)
    ]
    found[missing] = PixelClass.NODATA
    return found


OMNICLOUDMASK = MaskMethod(
    tuple(MaskInput((name,), reflectance=True) for name in ("red", "green", "nir")),
    frozenset({PixelClass.CLOUD, PixelClass.THIN_CLOUD, PixelClass.SHADOW}),
    _omnicloudmask_classify,
)
