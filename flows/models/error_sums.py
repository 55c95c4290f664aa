"""Errors summed over blocks, so that means come with intervals that respect how alike neighbours are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Side of a block, pixels.
_SIDE = 64
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class ErrorSums:
    """Sums over the scored pixels of every block, `(block, 5)`: pixels, absolute error, squared error (means of the
    bands, reflectance), spectral angle (degrees), absolute error of NDVI.
    """

    sums: NDArray[np.float64]

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(np.concatenate([self.sums, other.sums]))

    @property
    def pixels(self) -> int:
        """Scored pixels."""
        return int(self.sums[:, 0].sum())

    def _mean(self, column: int) -> float:
        return float(self.sums[:, column].sum() / self.sums[:, 0].sum())

    @property
    def mae(self) -> float:
        """Mean absolute error, reflectance."""
        return self._mean(1)

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio for a peak of 1, dB."""
        mse = self._mean(2)
        return math.inf if mse == 0 else -10 * math.log10(mse)

    @property
    def sam(self) -> float:
        """Mean spectral angle, degrees."""
        return self._mean(3)

    @property
    def ndvi(self) -> float:
        """Mean absolute error of NDVI."""
        return self._mean(4)

    def mae_interval(self) -> tuple[float, float]:
        """Return the 95 % percentile bootstrap interval of the MAE over blocks."""
        return _interval(self.sums[:, 1], self.sums[:, 0])

    def mae_gain(self, other: ErrorSums) -> tuple[float, float, float]:
        """Return MAE of `other` minus this one on the same blocks, and its paired interval."""
        difference = other.sums[:, 1] - self.sums[:, 1]
        return other.mae - self.mae, *_interval(difference, self.sums[:, 0])


def _interval(values: NDArray[np.float64], pixels: NDArray[np.float64]) -> tuple[float, float]:
    drawn = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].sum(axis=1) / pixels[drawn].sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


def error_sums(image: FloatArray, truth: FloatArray, where: BoolArray, bands: tuple[str, ...]) -> ErrorSums:
    """Return the errors of an image `(band, y, x)` on the pixels `where` `(y, x)`, block by block."""
    rows, columns = np.nonzero(where)
    block = rows // _SIDE * (where.shape[1] // _SIDE + 1) + columns // _SIDE
    a, b = image[:, where].astype(np.float64), truth[:, where].astype(np.float64)
    figures = np.stack(
        [
            np.ones(len(rows)),
            np.abs(a - b).mean(axis=0),
            np.square(a - b).mean(axis=0),
            _angle(a, b),
            _ndvi(a, b, bands),
        ]
    )
    _, index = np.unique(block, return_inverse=True)
    return ErrorSums(np.stack([np.bincount(index, figure) for figure in figures], axis=1))


def _angle(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    cosine = (a * b).sum(axis=0) / np.maximum(np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0), 1e-9)
    angle: NDArray[np.float64] = np.degrees(np.arccos(cosine.clip(-1, 1)))
    return angle


def _ndvi(a: NDArray[np.float64], b: NDArray[np.float64], bands: tuple[str, ...]) -> NDArray[np.float64]:
    if not {"red", "nir"} <= set(bands):
        return np.full(a.shape[1], np.nan)
    red, nir = bands.index("red"), bands.index("nir")
    one, other = ((x[nir] - x[red]) / np.maximum(x[nir] + x[red], 1e-6) for x in (a, b))
    error: NDArray[np.float64] = np.abs(one.clip(-1, 1) - other.clip(-1, 1))
    return error
