"""DE against its own reference, block by block, so that a difference can have an interval."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: Side of a block, pixels, and the scored pixels it must hold; neighbours are as good as independent.
_SIDE, _LEAST = 64, 400
#: Side of the windows whose spectra are averaged, and their spacing, pixels.
_WINDOW, _STEP = 16, 4
#: Radial frequencies that count as detail, cycles per pixel: the octave below Nyquist.
_DETAIL = (0.25, 0.5)
#: Power below which two spectra count as equal: white noise of 1e-4 reflectance, one step of a stored product.
_POWER_FLOOR = 1e-8


@dataclass(frozen=True, slots=True)
class BlockGain:
    """Figures of one block: DE, and the reference it was given."""

    psnr: float
    reference_psnr: float
    #: Error of the power of fine detail, dB; NaN where no window fits.
    spectrum: float
    reference_spectrum: float


def block_gains(image: FloatArray, reference: FloatArray, truth: FloatArray, where: BoolArray) -> Iterator[BlockGain]:
    """Yield the figures of every block with enough scored pixels.

    Args:
        image: DE's result `(band, y, x)`, reflectance.
        reference: the reference's, same shape.
        truth: the clear date, same shape.
        where: `(y, x)`, pixels that are scored.
    """
    rows, columns = where.shape
    for row in range(0, rows, _SIDE):
        for column in range(0, columns, _SIDE):
            block = (slice(row, row + _SIDE), slice(column, column + _SIDE))
            if where[block].sum() < _LEAST:
                continue
            inside, true = where[block], truth[:, *block]
            both = [candidate[:, *block] for candidate in (image, reference)]
            yield BlockGain(
                *(_psnr(each, true, inside) for each in both), *(spectrum_error(each, true, inside) for each in both)
            )


def _psnr(image: FloatArray, truth: FloatArray, where: BoolArray) -> float:
    """Return the PSNR over all bands jointly for a peak of 1, dB; infinite without error."""
    mse = float(np.square(image[:, where].astype(np.float64) - truth[:, where].astype(np.float64)).mean())
    return math.inf if mse == 0 else -10 * math.log10(mse)


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
    detail = slice(round(_DETAIL[0] * _WINDOW), round(_DETAIL[1] * _WINDOW) + 1)
    ratio = 10 * np.log10(one[:, detail].clip(_POWER_FLOOR) / other[:, detail].clip(_POWER_FLOOR))
    return float(np.abs(ratio).mean())


def radial_spectrum(image: NDArray[np.floating], inside: BoolArray) -> DoubleArray | None:
    """Return power `(band, ring)` at radial frequencies ring / 16 cycles per pixel; None when no window fits.

    White noise of standard deviation s has power s^2 on every ring but the first two, which lose to the removed mean.
    """
    size = _WINDOW
    if min(inside.shape) < size:
        return None
    views = np.lib.stride_tricks.sliding_window_view(image, (size, size), axis=(1, 2))
    fits = _windows_inside(inside)[::_STEP, ::_STEP]
    if not fits.any():
        return None
    power = np.zeros((len(image), size, size))
    for row in np.flatnonzero(fits.any(axis=1)):
        columns = np.flatnonzero(fits[row]) * _STEP
        power += _periodograms(views[:, row * _STEP, columns]).sum(axis=1)
    return _over_rings(power / int(fits.sum()))


def _windows_inside(inside: BoolArray) -> BoolArray:
    """Return, for every possible window's first pixel, whether the whole window is inside."""
    total = np.pad(inside.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    n = _WINDOW
    covered = total[n:, n:] - total[:-n, n:] - total[n:, :-n] + total[:-n, :-n]
    return covered == n * n


def _periodograms(windows: NDArray[np.floating]) -> DoubleArray:
    """Return the power `(band, window, fy, fx)` of `(band, window, y, x)`."""
    hann = np.hanning(_WINDOW + 2)[1:-1]
    taper = np.outer(hann, hann)
    centred = windows - windows.mean(axis=(2, 3), keepdims=True, dtype=np.float64)
    return np.abs(np.fft.fft2(centred * taper)) ** 2 / np.square(taper).sum()


def _over_rings(power: DoubleArray) -> DoubleArray:
    """Average `(band, fy, fx)` over rings of equal radial frequency, up to Nyquist."""
    frequency = np.fft.fftfreq(_WINDOW) * _WINDOW
    ring = np.rint(np.hypot(frequency[:, None], frequency[None, :])).astype(int)
    rings = range(_WINDOW // 2 + 1)
    return np.stack([power[:, ring == r].mean(axis=1) for r in rings], axis=1)
