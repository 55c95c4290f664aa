"""How long and how often a server is asked before it is given up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_result,
    stop_after_attempt,
    wait_random_exponential,
)

from stac.errors import SourceUnavailable

#: Answers that may be better a moment later.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
#: The connection broke, was refused, or nothing came in time.
_BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


@dataclass(frozen=True, slots=True)
class Patience:
    """How a server is waited for; nothing is ever asked without an end."""

    #: Longest silence of one request, seconds.
    timeout_s: float = 30.0
    #: A whole search, with all its pages, attempts and waits, seconds.
    total_s: float = 600.0
    #: Attempts after the first.
    retries: int = 4
    #: Upper bound of the first wait, doubled with each attempt; the wait is drawn between 0 and the bound
    #: ("full jitter": https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    first_delay_s: float = 0.5
    #: Longest wait between two attempts; a server that asks for more is given up.
    longest_delay_s: float = 60.0
    #: Unit of a number in `Retry-After`; Sentinel Hub means milliseconds.
    retry_after_unit_s: float = 1.0

    def attempts(self, deadline: Deadline) -> Retrying:
        """Return the policy that calls a function until its answer is no passing failure.

        The last answer is returned, the last error raised. A wait that `Retry-After` asks for is kept, with
        jitter on top; one that is too long ends the attempts at once.
        """
        return Retrying(
            retry=retry_if_result(lambda answer: answer.status_code in PASSING) | retry_if_exception(_is_passing),
            stop=lambda state: (
                stop_after_attempt(self.retries + 1)(state)
                or state.upcoming_sleep > min(self.longest_delay_s + self.first_delay_s, deadline.left())
            ),
            wait=self._wait,
            retry_error_callback=_last,
        )

    def _wait(self, state: RetryCallState) -> float:
        jittered = wait_random_exponential(self.first_delay_s, self.longest_delay_s)
        answer = None if state.outcome is None or state.outcome.failed else state.outcome.result()
        asked = None if answer is None else retry_after_s(answer.headers.get("Retry-After"), self.retry_after_unit_s)
        if asked is None:
            return float(jittered(state))
        return asked + min(float(jittered(state)), self.first_delay_s)


def _is_passing(error: BaseException) -> bool:
    """Tell a broken connection from a certificate that will be as wrong a moment later."""
    return isinstance(error, _BROKEN) and not isinstance(error, requests.exceptions.SSLError)


def _last(state: RetryCallState) -> Any:
    """Return the last answer, or raise the last error."""
    return None if state.outcome is None else state.outcome.result()


def retry_after_s(header: str | None, unit_s: float = 1.0) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, None where it asks for nothing.

    Args:
        header: a number or an HTTP date (RFC 9110, section 10.2.3).
        unit_s: what a number counts, seconds.
    """
    if not header:
        return None
    if header.strip().isdecimal():
        return int(header) * unit_s
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    if until.tzinfo is None:
        return None
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


@dataclass(frozen=True, slots=True)
class Deadline:
    """When an operation must have ended, and what it is."""

    #: In words, for the message.
    what: str
    total_s: float
    #: On the monotonic clock, seconds.
    ends: float
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def after(cls, total_s: float, what: str) -> Deadline:
        """Return the deadline `total_s` seconds from now."""
        return cls(what, total_s, time.monotonic() + total_s)

    def left(self) -> float:
        """Return the seconds that are left, at least 0."""
        return max(0.0, self.ends - self.clock())

    def check(self) -> None:
        """Do nothing while there is time.

        Raises:
            SourceUnavailable: the time is over.
        """
        if self.left() <= 0:
            raise SourceUnavailable(
                f"{self.what} took longer than {self.total_s:g} seconds; ask for less, or allow more time (search_s)."
            )

    def sleep(self, seconds: float) -> None:
        """Wait, unless the time is over before.

        Raises:
            SourceUnavailable: the time is over.
        """
        if seconds > 0:
            time.sleep(min(seconds, self.left()))
        self.check()
