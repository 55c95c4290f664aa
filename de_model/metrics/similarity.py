"""Structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004) where some pixels are missing.

A pixel has an SSIM only where every pixel of its window can be used; the others, the border of the image among
them, are left out rather than padded or re-weighted. Over an image without gaps this is the mean over the map cropped
by `(window - 1) // 2`, which is what scikit-image reports.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d, minimum_filter

DoubleArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: K1 and K2 of the paper; C = (K * peak)^2.
_K1, _K2 = 0.01, 0.03


@dataclass(frozen=True, slots=True)
class Window:
    """A square, separable averaging window."""

    #: Weights along one axis; they sum to 1.
    taps: tuple[float, ...]
    #: True divides (co)variances by N - 1 instead of N, the default of scikit-image; for uniform windows.
    sample_covariance: bool

    @property
    def size(self) -> int:
        """Side length, pixels."""
        return len(self.taps)


def gaussian_window(size: int = 11, sigma: float = 1.5) -> Window:
    """Return the window of the original paper: Gaussian, population covariance."""
    offset = np.arange(size) - (size - 1) / 2
    taps = np.exp(-(offset**2) / (2 * sigma**2))
    return Window(tuple(taps / taps.sum()), sample_covariance=False)


def uniform_window(size: int = 7) -> Window:
    """Return the default window of scikit-image: uniform, sample covariance."""
    return Window((1 / size,) * size, sample_covariance=True)


def whole_windows(usable: BoolArray, size: int) -> BoolArray:
    """Return `(y, x)`, True where the `size` x `size` window around a pixel holds usable pixels only."""
    return minimum_filter(usable, size=size, mode="constant", cval=False)


def ssim_map(a: DoubleArray, b: DoubleArray, window: Window, peak: float) -> DoubleArray:
    """Return SSIM `(y, x)`, -1..1, of two single bands `(y, x)`.

    Values within `(size - 1) // 2` pixels of the border see a mirrored image; select with `whole_windows`.

    Args:
        a: finite values, 0..peak.
        b: the same shape.
        window: the averaging window.
        peak: largest possible value, the L of the paper.
    """
    mean_a, mean_b = _average(a, window), _average(b, window)
    count = window.size**2
    unbias = count / (count - 1) if window.sample_covariance else 1.0
    var_a = unbias * (_average(a * a, window) - mean_a**2)
    var_b = unbias * (_average(b * b, window) - mean_b**2)
    covariance = unbias * (_average(a * b, window) - mean_a * mean_b)
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def _average(image: DoubleArray, window: Window) -> DoubleArray:
    rows = correlate1d(image, window.taps, axis=0, mode="reflect")
    return correlate1d(rows, window.taps, axis=1, mode="reflect")


def ssim_per_band(
    image: NDArray[np.floating],
    truth: NDArray[np.floating],
    where: BoolArray,
    window: Window,
    peak: float,
    valid: BoolArray | None = None,
) -> tuple[DoubleArray, int]:
    """Return the mean SSIM of each band over the counted pixels with whole windows, and how many those are.

    Args:
        image: `(band, y, x)`, 0..peak.
        truth: the same shape.
        where: `(y, x)`, True on the pixels that count.
        window: the averaging window.
        peak: largest possible value.
        valid: `(y, x)`, True where a window may look; every pixel when left out. Values elsewhere are ignored.

    Returns:
        `(band,)`, NaN when no counted pixel has a whole window; and the number of pixels averaged.
    """
    usable = np.ones(where.shape, dtype=bool) if valid is None else valid
    chosen = where & whole_windows(usable, window.size)
    count = int(chosen.sum())
    if not count:
        return np.full(len(image), np.nan), 0
    pairs = ((np.where(usable, x, 0).astype(np.float64) for x in pair) for pair in zip(image, truth, strict=True))
    return np.array([ssim_map(a, b, window, peak)[chosen].mean() for a, b in pairs]), count
