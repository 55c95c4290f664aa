"""How fast one host is asked: a token bucket shared by all threads of a process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: What a host bears that says nothing else.
DEFAULT_RATE = 10.0
#: Requests that may be sent at once after a rest, in seconds' worth of the rate.
_BURST_S = 1.0


class Pace:
    """Hands out moments at which a request may be sent."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with a full bucket.

        Args:
            per_second: requests a second in the long run, above 0.
            clock: seconds on a clock that never runs backwards.
        """
        self._step = 1 / per_second
        self._burst = max(0.0, _BURST_S - self._step)
        self._clock = clock
        self._lock = threading.Lock()
        self._next = clock() - self._burst

    def reserve(self) -> float:
        """Take the next free moment; return how long to wait for it, seconds."""
        with self._lock:
            now = self._clock()
            moment = max(self._next, now - self._burst)
            self._next = moment + self._step
            return max(0.0, moment - now)

    def pause(self, seconds: float) -> None:
        """Let nothing be sent for a while: the host asked for it."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


_PACES: dict[tuple[str, float], Pace] = {}
_PACES_LOCK = threading.Lock()


def pace_of(host: str, per_second: float = DEFAULT_RATE) -> Pace:
    """Return the bucket of a host, the same one for every thread."""
    with _PACES_LOCK:
        return _PACES.setdefault((host, per_second), Pace(per_second))
