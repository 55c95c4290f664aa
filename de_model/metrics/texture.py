"""Detail in numbers: gradients and power spectra, of regions of any shape."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import laplace, sobel

from de_model.metrics.similarity import whole_windows

DoubleArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: Side of the windows whose spectra are averaged, and their spacing, pixels.
SPECTRUM_WINDOW, _SPECTRUM_STEP = 16, 4
#: Radial frequencies that count as detail, cycles per pixel: the octave below Nyquist.
DETAIL_BAND = (0.25, 0.5)
#: Power below which two spectra count as equal: white noise of 1e-4 reflectance, one step of a stored product.
_POWER_FLOOR = 1e-8


def gradient_magnitude(image: NDArray[np.floating]) -> DoubleArray:
    """Return the gradient's magnitude per pixel of each band (Sobel / 8), in units of the image per pixel.

    Args:
        image: `(band, y, x)`; a value looks one pixel around itself.
    """
    double = np.nan_to_num(image.astype(np.float64))
    rows, columns = (np.stack([sobel(band, axis=axis) for band in double]) / 8 for axis in (0, 1))
    return np.hypot(rows, columns)


def high_pass(image: NDArray[np.floating]) -> DoubleArray:
    """Return the five-point Laplacian of each band of `(band, y, x)`, which keeps the finest detail."""
    return np.stack([laplace(band) for band in np.nan_to_num(image.astype(np.float64))])


def edge_error(image: NDArray[np.floating], truth: NDArray[np.floating], where: BoolArray, valid: BoolArray) -> float:
    """Return the mean absolute difference of gradient magnitudes, reflectance per pixel.

    It is 0 for equal edges whatever the offset between the images, and grows with blur and with invented edges alike.
    Counted are the pixels of `where` whose 3 x 3 neighbourhood is `valid`; NaN if there is none.
    """
    chosen = where & whole_windows(valid, 3)
    if not chosen.any():
        return float("nan")
    difference = gradient_magnitude(image) - gradient_magnitude(truth)
    return float(np.abs(difference[:, chosen]).mean())


def spectrum_error(image: NDArray[np.floating], truth: NDArray[np.floating], inside: BoolArray) -> float:
    """Return how far the power of fine detail is off, dB: mean of |10 log10(P_image / P_truth)|.

    P is the radially averaged power spectrum of a band (Welch 1967: mean over overlapping Hann windows, mean value
    removed), on the rings of the octave 0.25..0.5 cycles per pixel; the mean runs over rings and bands. Only windows
    of 16 x 16 pixels that lie fully `inside` (`(y, x)`) are used, on a grid of 4 px from the image's first pixel, so
    values across the region's border never leak in; NaN when no window fits. Powers below 1e-8 (white noise of 1e-4
    reflectance) are raised to it.
    """
    one, other = radial_spectrum(image, inside), radial_spectrum(truth, inside)
    if one is None or other is None:
        return float("nan")
    detail = slice(*_rings(DETAIL_BAND))
    ratio = 10 * np.log10(one[:, detail].clip(_POWER_FLOOR) / other[:, detail].clip(_POWER_FLOOR))
    return float(np.abs(ratio).mean())


def radial_spectrum(image: NDArray[np.floating], inside: BoolArray) -> DoubleArray | None:
    """Return power `(band, ring)` at radial frequencies ring / 16 cycles per pixel; None when no window fits.

    White noise of standard deviation s has power s^2 on every ring but the first two, which lose to the removed mean.
    """
    size = SPECTRUM_WINDOW
    if min(inside.shape) < size:
        return None
    views = np.lib.stride_tricks.sliding_window_view(image, (size, size), axis=(1, 2))
    fits = _windows_inside(inside)[::_SPECTRUM_STEP, ::_SPECTRUM_STEP]
    if not fits.any():
        return None
    power = np.zeros((len(image), size, size))
    for row in np.flatnonzero(fits.any(axis=1)):
        columns = np.flatnonzero(fits[row]) * _SPECTRUM_STEP
        power += _periodograms(views[:, row * _SPECTRUM_STEP, columns]).sum(axis=1)
    return _over_rings(power / int(fits.sum()))


def _windows_inside(inside: BoolArray) -> BoolArray:
    """Return, for every possible window's first pixel, whether the whole window is inside."""
    total = np.pad(inside.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    n = SPECTRUM_WINDOW
    covered = total[n:, n:] - total[:-n, n:] - total[n:, :-n] + total[:-n, :-n]
    return covered == n * n


def _periodograms(windows: NDArray[np.floating]) -> DoubleArray:
    """Return the power `(band, window, fy, fx)` of `(band, window, y, x)`."""
    hann = np.hanning(SPECTRUM_WINDOW + 2)[1:-1]
    taper = np.outer(hann, hann)
    centred = windows - windows.mean(axis=(2, 3), keepdims=True, dtype=np.float64)
    return np.abs(np.fft.fft2(centred * taper)) ** 2 / np.square(taper).sum()


def _over_rings(power: DoubleArray) -> DoubleArray:
    """Average `(band, fy, fx)` over rings of equal radial frequency, up to Nyquist."""
    frequency = np.fft.fftfreq(SPECTRUM_WINDOW) * SPECTRUM_WINDOW
    ring = np.rint(np.hypot(frequency[:, None], frequency[None, :])).astype(int)
    rings = range(SPECTRUM_WINDOW // 2 + 1)
    return np.stack([power[:, ring == r].mean(axis=1) for r in rings], axis=1)


def _rings(band: tuple[float, float]) -> tuple[int, int]:
    """Return first and past-last ring of a band of radial frequencies."""
    return round(band[0] * SPECTRUM_WINDOW), round(band[1] * SPECTRUM_WINDOW) + 1
