"""The `standard` protocol: errors in surface reflectance over chosen pixels.

Images are `(band, y, x)` reflectance; `where` is `(y, x)`, True on the pixels that count.

| figure | formula | source |
|---|---|---|
| MAE, RMSE | mean absolute error, root of the mean squared error, all bands jointly | |
| PSNR | -10 log10(MSE), peak reflectance 1, all bands jointly | |
| SSIM | 11 x 11 Gaussian window, sigma 1.5, L = 1, per band, then the mean of the bands | Wang et al. 2004 |
| SAM | mean angle between the spectra of a pixel | Kruse et al. 1993 |
| NDVI error | mean absolute error of (nir - red) / (nir + red) | Rouse et al. 1974 |
| edge error | mean absolute difference of gradient magnitudes (`texture.edge_error`) | |
| spectrum error | mean difference of fine-detail power, dB (`texture.spectrum_error`) | Welch 1967 |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from de_model.errors import InvalidModelInput
from de_model.metrics.similarity import gaussian_window, ssim_per_band
from de_model.metrics.texture import edge_error, spectrum_error

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_WINDOW = gaussian_window()
#: Peak reflectance of PSNR and SSIM.
_PEAK = 1.0


@dataclass(frozen=True, slots=True)
class Scores:
    """Errors of one image against the truth."""

    #: Mean absolute error, reflectance.
    mae: float
    #: Root mean squared error, reflectance.
    rmse: float
    #: Peak signal-to-noise ratio in dB for a peak reflectance of 1, over all bands jointly; infinite without error.
    psnr: float
    #: Structural similarity, -1..1, mean of the bands; NaN when no counted pixel has a whole window.
    ssim: float
    #: Mean absolute error of NDVI; NaN without red and near infrared.
    ndvi_mae: float
    #: Mean spectral angle, degrees.
    sam: float
    #: Mean absolute difference of gradient magnitudes, reflectance per pixel; NaN when no neighbourhood is whole.
    edge: float
    #: Mean absolute difference of fine-detail power, dB; NaN when no 16 px window lies inside the counted pixels.
    spectrum: float
    #: Number of pixels that counted.
    pixels: int
    #: How many of them had a whole SSIM window.
    windows: int


def score(
    image: FloatArray,
    truth: FloatArray,
    where: BoolArray,
    bands: tuple[str, ...],
    valid: BoolArray | None = None,
) -> Scores:
    """Return the errors of `image` against `truth` on the pixels `where`.

    Args:
        image: `(band, y, x)` reflectance.
        truth: the same shape.
        where: `(y, x)`, the pixels that count.
        bands: common names in channel order.
        valid: `(y, x)`, pixels that windows of SSIM and gradients may look at besides the counted ones: leave out
            clouds of the truth here. Every finite pixel when left out.

    Raises:
        InvalidModelInput: shapes differ, no pixel counts, or a counted pixel is not finite.
    """
    _check(image, truth, where, bands)
    if not where.any():
        raise InvalidModelInput("No pixel to score: the mask is empty.")
    usable = both_finite(image, truth)
    if not usable[where].all():
        raise InvalidModelInput("Image or truth is not finite on a counted pixel; narrow the mask.")
    if valid is not None:
        usable &= valid | where
    a, b = image[:, where].astype(np.float64), truth[:, where].astype(np.float64)
    difference = a - b
    mse = float(np.square(difference).mean())
    similarity, windows = ssim_per_band(image, truth, where, _WINDOW, _PEAK, usable)
    return Scores(
        mae=float(np.abs(difference).mean()),
        rmse=math.sqrt(mse),
        psnr=math.inf if mse == 0 else -10 * math.log10(mse),
        ssim=float(similarity.mean()),
        ndvi_mae=_ndvi_mae(a, b, bands),
        sam=_spectral_angle(a, b),
        edge=edge_error(image, truth, where, usable),
        spectrum=spectrum_error(image, truth, where),
        pixels=int(where.sum()),
        windows=windows,
    )


def both_finite(image: FloatArray, truth: FloatArray) -> BoolArray:
    """Return `(y, x)`, True where no band of either image is missing.

    Raises:
        InvalidModelInput: the shapes differ.
    """
    if image.ndim != 3 or image.shape != truth.shape:
        raise InvalidModelInput(f"Shapes differ: image {image.shape}, truth {truth.shape}.")
    return np.asarray(np.isfinite(image).all(axis=0) & np.isfinite(truth).all(axis=0))


def _check(image: FloatArray, truth: FloatArray, mask: BoolArray, bands: tuple[str, ...]) -> None:
    if image.ndim != 3 or image.shape != truth.shape or mask.shape != truth.shape[1:]:
        raise InvalidModelInput(f"Shapes differ: image {image.shape}, truth {truth.shape}, mask {mask.shape}.")
    if len(bands) != len(image):
        raise InvalidModelInput(f"The image has {len(image)} bands, {len(bands)} are named: {', '.join(bands)}.")


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
