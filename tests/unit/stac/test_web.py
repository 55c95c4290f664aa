from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from stac.errors import SourceUnavailable, UnsafeHref
from stac.io.http import Deadline, Pace, RetryPolicy, WebSession, pace_of, retry_after_s


class Clock:
    """A clock that only moves when a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("header", "unit_s", "expected"),
    [("7", 1, 7), ("250", 0.001, 0.25), ("0", 1, 0), (None, 1, None), ("", 1, None), ("soon", 1, None)],
)
def test_retry_after_as_a_number(header: str | None, unit_s: float, expected: float | None) -> None:
    assert retry_after_s(header, unit_s) == expected


def test_retry_after_as_a_date() -> None:
    ahead = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert retry_after_s(ahead) == pytest.approx(100, abs=5)
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@given(st.text(max_size=20))
def test_retry_after_never_fails(header: str) -> None:
    seconds = retry_after_s(header)
    assert seconds is None or seconds >= 0


def test_a_rested_host_gets_a_burst_and_then_its_rate() -> None:
    clock = Clock()
    pace = Pace(4, clock)
    assert [pace.reserve() for _ in range(6)] == [0, 0, 0, 0, 0.25, 0.5]
    clock.now += 60
    assert [pace.reserve() for _ in range(5)] == [0, 0, 0, 0, 0.25]


@given(st.lists(st.floats(0, 2), min_size=1, max_size=60), st.sampled_from([0.5, 1.0, 3.0, 10.0]))
def test_the_rate_is_never_exceeded(pauses: list[float], rate: float) -> None:
    clock, sent = Clock(), []
    pace = Pace(rate, clock)
    for pause in pauses:
        clock.now += pause
        sent.append(clock.now + pace.reserve())
    burst = max(1.0, rate)
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            assert last - first + 1 <= burst + rate * (sent[last] - sent[first]) + 1e-6


def test_a_host_that_asks_for_a_pause_gets_it() -> None:
    pace = Pace(10, Clock())
    pace.pause(5)
    assert pace.reserve() == 5


def test_threads_share_a_host() -> None:
    waits: list[float] = []
    threads = [threading.Thread(target=lambda: waits.append(pace_of("host.test", 2).reserve())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(wait == 0 for wait in waits) == 2 and max(waits) == pytest.approx(3, abs=0.2)
    assert pace_of("other.test", 2).reserve() == 0


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/meta-data/", "//localhost/x"])
def test_a_server_outside_does_not_send_us_inside(target: str) -> None:
    answer = requests.Response()
    answer.status_code, answer.url, answer.headers["Location"] = 302, "https://example.org/a?token=secret", target
    session = WebSession(RetryPolicy())
    with pytest.raises(UnsafeHref, match="inside this network") as error:
        session.get_redirect_target(answer)
    assert "secret" not in str(error.value)
    answer.headers["Location"] = "/b"
    assert session.get_redirect_target(answer) == "/b"


def test_a_deadline_names_what_took_so_long() -> None:
    clock = Clock()
    deadline = Deadline("Searching x", 5, clock.now + 5, clock)
    deadline.check()
    clock.now += 3
    assert deadline.left() == 2
    clock.now += 3
    with pytest.raises(SourceUnavailable, match="Searching x took longer than 5 seconds"):
        deadline.check()
    assert deadline.left() == 0
