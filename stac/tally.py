"""Figures of rasters that are seen window by window."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class BandTally:
    """Statistics of the valid pixels of one band; the order of its windows does not matter."""

    def __init__(self, nodata: float) -> None:
        self._nodata = nodata
        self._pixels = self._valid = 0
        self._sum = self._squares = 0.0
        self._least, self._most = np.inf, -np.inf

    def add(self, pixels: NDArray[Any]) -> None:
        """Count a window, any shape."""
        valid = np.isfinite(pixels) if np.isnan(self._nodata) else pixels != self._nodata
        values = pixels[valid].astype(np.float64)
        self._pixels += pixels.size
        self._valid += values.size
        if values.size:
            self._sum += float(values.sum())
            self._squares += float(np.square(values).sum())
            self._least, self._most = min(self._least, float(values.min())), max(self._most, float(values.max()))

    @property
    def mean(self) -> float:
        """Mean of the valid pixels; 0 without any."""
        return self._sum / self._valid if self._valid else 0.0

    @property
    def statistics(self) -> dict[str, float]:
        """Minimum, maximum, mean, stddev and valid_percent as STAC names them; only the last without valid pixels."""
        percent = {"valid_percent": round(100 * self._valid / self._pixels, 4) if self._pixels else 0.0}
        if not self._valid:
            return percent
        variance = max(self._squares / self._valid - self.mean**2, 0.0)
        numbers = {"minimum": self._least, "maximum": self._most, "mean": self.mean, "stddev": variance**0.5}
        return {name: round(value, 6) for name, value in numbers.items()} | percent
