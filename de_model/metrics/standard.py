"""The `standard` protocol: errors in surface reflectance over chosen pixels.

Images are `(band, y, x)` reflectance; `where` is `(y, x)`, True on the pixels that count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from de_model.errors import InvalidModelInput

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scores:
    """Errors of one image against the truth."""

    #: Mean absolute error, reflectance.
    mae: float
    #: Peak signal-to-noise ratio in dB for a peak reflectance of 1, over all bands jointly.
    psnr: float
    #: Mean absolute error of NDVI; NaN without red and near infrared.
    ndvi_mae: float
    #: Mean spectral angle, degrees.
    sam: float
    #: Number of pixels that counted.
    pixels: int


def score(image: FloatArray, truth: FloatArray, where: BoolArray, bands: tuple[str, ...]) -> Scores:
    """Return the errors of `image` against `truth` on the pixels `where`.

    Raises:
        InvalidModelInput: shapes differ, no pixel counts, or a counted pixel is not finite.
    """
    if image.shape != truth.shape or where.shape != truth.shape[1:]:
        raise InvalidModelInput(f"Shapes differ: image {image.shape}, truth {truth.shape}, mask {where.shape}.")
    if not where.any():
        raise InvalidModelInput("No pixel to score: the mask is empty.")
    a, b = image[:, where].astype(np.float64), truth[:, where].astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InvalidModelInput("Image or truth is not finite on a counted pixel; narrow the mask.")
    difference = a - b
    mse = float(np.square(difference).mean())
    return Scores(
        mae=float(np.abs(difference).mean()),
        psnr=math.inf if mse == 0 else -10 * math.log10(mse),
        ndvi_mae=_ndvi_mae(a, b, bands),
        sam=_spectral_angle(a, b),
        pixels=int(where.sum()),
    )


def _ndvi_mae(a: NDArray[np.float64], b: NDArray[np.float64], bands: tuple[str, ...]) -> float:
    if not {"red", "nir"} <= set(bands):
        return math.nan
    red, nir = bands.index("red"), bands.index("nir")
    return float(np.abs(_ndvi(a[red], a[nir]) - _ndvi(b[red], b[nir])).mean())


def _ndvi(red: NDArray[np.float64], nir: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return NDVI, 0 where both bands are dark."""
    total = nir + red
    return np.divide(nir - red, total, out=np.zeros_like(total), where=total > 1e-6).clip(-1, 1)


def _spectral_angle(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    length = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    cosine = np.divide((a * b).sum(axis=0), length, out=np.ones_like(length), where=length > 0)
    return float(np.degrees(np.arccos(cosine.clip(-1, 1))).mean())
