"""Processing units: what Sentinel Hub bills a reader for."""

from __future__ import annotations

import threading

#: One unit buys this many pixels of three bands in 16 bits
#: (https://docs.sentinel-hub.com/api/latest/api/overview/processing-unit/).
_PIXELS, _BANDS = 512 * 512, 3
_LEAST_AREA, _LEAST = 0.01, 0.005


class UnitMeter:
    """Counts the units this process has spent, as the service reports them."""

    def __init__(self) -> None:
        """Start at nothing spent."""
        self._lock = threading.Lock()
        self._spent, self._requests = 0.0, 0

    def add(self, units: float) -> None:
        """Count one answered request."""
        with self._lock:
            self._spent += units
            self._requests += 1

    @property
    def spent(self) -> float:
        """Units spent so far."""
        with self._lock:
            return self._spent

    @property
    def requests(self) -> int:
        """Requests that were billed so far."""
        with self._lock:
            return self._requests


#: Everything this process reads from Sentinel Hub.
METER = UnitMeter()


def estimated_units(width: int, height: int, bands: int) -> float:
    """Return what a request of 16-bit pixels costs, in units, before it is sent."""
    return max(_LEAST, max(_LEAST_AREA, width * height / _PIXELS) * bands / _BANDS)
