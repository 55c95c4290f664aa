"""Several things at once: how many, in which order they are taken, and what happens when one fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from flows.execution.units import side_by_side

_PLACE: ContextVar[str] = ContextVar("place", default="nowhere")
#: Seconds after which a test that hangs is told so.
_LONG_S = 60


def nothing() -> None:
    """Nothing to stop."""


def test_one_at_a_time_is_done_by_the_caller_in_order() -> None:
    seen: list[tuple[int, int]] = []
    side_by_side(range(3), lambda n, _: seen.append((n, threading.get_ident())), lambda: 1, nothing)
    assert seen == [(n, threading.get_ident()) for n in range(3)]


def test_as_many_go_on_at_once_as_there_is_width_and_no_more() -> None:
    together, lock, now, most = threading.Barrier(3), threading.Lock(), [0], [0]

    def do(_number: int, _stopping: threading.Event) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        together.wait(_LONG_S)  # broken unless three are here
        with lock:
            now[0] -= 1

    side_by_side(range(9), do, lambda: 3, nothing)
    assert most == [3]


def test_workers_that_come_later_are_used() -> None:
    width, together = [2], threading.Barrier(4)

    def do(number: int, _stopping: threading.Event) -> None:
        width[0] = 4
        if number < 4:
            together.wait(_LONG_S)

    side_by_side(range(6), do, lambda: width[0], nothing)


def test_things_are_taken_when_there_is_room_for_them() -> None:
    taken, room = [0], threading.Semaphore(0)

    def many() -> Iterator[int]:
        for number in range(1000):
            taken[0] = number + 1
            yield number

    def do(number: int, _stopping: threading.Event) -> None:
        if number == 0:
            room.acquire(timeout=_LONG_S)
        elif number == 10:
            assert taken[0] <= 13
            room.release()

    side_by_side(many(), do, lambda: 2, nothing)
    assert taken == [1000]


def test_the_first_failure_stops_all_and_is_raised_when_the_others_have_ended() -> None:
    ended, halted, began = [], threading.Event(), threading.Barrier(3)

    def do(number: int, stopping: threading.Event) -> None:
        began.wait(_LONG_S)
        if number == 1:
            raise ZeroDivisionError("oh")
        assert halted.wait(_LONG_S) and stopping.is_set()
        ended.append(number)

    with pytest.raises(ZeroDivisionError, match="oh"):
        side_by_side(range(50), do, lambda: 3, halted.set)
    assert sorted(ended) == [0, 2]


def test_the_context_of_the_caller_is_known_everywhere() -> None:
    token, seen = _PLACE.set("here"), []
    try:
        side_by_side(range(4), lambda _n, _: seen.append(_PLACE.get()), lambda: 2, nothing)
    finally:
        _PLACE.reset(token)
    assert seen == ["here"] * 4
