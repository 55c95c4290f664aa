"""The `paper` protocol: figures computed the way the published evaluation computes them (DE section 6.3).

It exists to compare with published tables and reproduces their oddities on purpose: pixels are truncated to 8 bits and
SSIM sees luma only. Whole images are scored, clear pixels included. Images are `(band, y, x)` in [0, 1]. The published
LPIPS is left out: it needs weights that are not shipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from de_model.errors import InvalidModelInput
from de_model.metrics.similarity import ssim_per_band, uniform_window

ByteArray = NDArray[np.uint8]

#: Luma of red, green, blue.
_LUMA = (0.298912, 0.586611, 0.114478)
_WINDOW = uniform_window()
_PEAK = 255.0
_RGB = ("red", "green", "blue")


@dataclass(frozen=True, slots=True)
class PaperScores:
    """Figures of one image under the paper's protocol."""

    #: dB, peak 255, all bands jointly; infinite without error.
    psnr: float
    #: -1..1: of luma for RGB, else the mean of the bands.
    ssim: float


def paper_score(image: NDArray[np.floating], truth: NDArray[np.floating], bands: tuple[str, ...]) -> PaperScores:
    """Return the figures of `image` against `truth`, both `(band, y, x)` in [0, 1].

    Args:
        image: the restoration; values outside [0, 1] are clamped.
        truth: the same shape.
        bands: common names in channel order; red, green and blue alone are scored as RGB, in any order.

    Raises:
        InvalidModelInput: shapes or bands do not fit, a value is not finite, or the image is smaller than 7 px.
    """
    _check(image, truth, bands)
    a, b = to_bytes(image), to_bytes(truth)
    return PaperScores(_psnr(a, b), _ssim(a, b, _rgb_channels(bands)))


def to_bytes(image: NDArray[np.floating]) -> ByteArray:
    """Return 8-bit pixels: from [0, 1] over [-1, 1] to 0..255 in float32, clamped, truncated.

    The detour is the published one, and shows: an 8-bit pixel that goes through it loses 1 for 63 of its 256 values.
    """
    signed = image.astype(np.float32) * 2 - 1
    return ((signed + 1) * np.float32(127.5)).clip(0, 255).astype(np.uint8)


def _rgb_channels(bands: tuple[str, ...]) -> tuple[int, int, int] | None:
    """Return the channels of red, green, blue of an RGB image; None for images with other or more bands."""
    if sorted(bands) != sorted(_RGB):
        return None
    red, green, blue = (bands.index(name) for name in _RGB)
    return red, green, blue


def luma(image: ByteArray, rgb: tuple[int, int, int]) -> NDArray[np.float64]:
    """Return luma `(y, x)`, 0..255, of `(band, y, x)`; not rounded."""
    return np.tensordot(np.array(_LUMA), image[list(rgb)].astype(np.float64), axes=1)


def _psnr(a: ByteArray, b: ByteArray) -> float:
    mse = float(np.square(a.astype(np.float64) - b).mean())
    return math.inf if mse == 0 else 10 * math.log10(_PEAK**2 / mse)


def _ssim(a: ByteArray, b: ByteArray, rgb: tuple[int, int, int] | None) -> float:
    one, other = (luma(x, rgb)[None] if rgb else x.astype(np.float64) for x in (a, b))
    everywhere = np.ones(a.shape[1:], dtype=bool)
    return float(ssim_per_band(one, other, everywhere, _WINDOW, _PEAK)[0].mean())


def _check(image: NDArray[np.floating], truth: NDArray[np.floating], bands: tuple[str, ...]) -> None:
    if image.ndim != 3 or image.shape != truth.shape or len(bands) != len(image):
        raise InvalidModelInput(
            f"Image {image.shape} and truth {truth.shape} do not fit each other and the bands {', '.join(bands)}."
        )
    if min(image.shape[1:]) < _WINDOW.size:
        raise InvalidModelInput(f"Image of {image.shape[1:]} px; SSIM needs {_WINDOW.size} px at least.")
    if not (np.isfinite(image).all() and np.isfinite(truth).all()):
        raise InvalidModelInput("The paper's protocol scores whole images, and a pixel is not finite; crop the image.")
