"""One more is made than the caller holds: in order, never more, and an error comes where its result would."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from flows.ahead import ahead

WAIT_S = 30


class Works:
    """Works that say when they have begun."""

    def __init__(self, count: int) -> None:
        self.begun = [threading.Event() for _ in range(count)]

    def of(self, number: int) -> Callable[[], int]:
        def work() -> int:
            self.begun[number].set()
            return number

        return work

    @property
    def all(self) -> list[Callable[[], int]]:
        return [self.of(number) for number in range(len(self.begun))]


def test_the_next_is_made_while_one_is_used_and_no_other_is() -> None:
    works = Works(4)
    results = ahead(works.all)
    for number in range(3):
        assert next(results) == number
        assert works.begun[number + 1].wait(WAIT_S)
        assert not any(begun.is_set() for begun in works.begun[number + 2 :])
    assert list(results) == [3] and list(ahead(())) == []


def test_an_error_comes_where_its_result_would() -> None:
    def broken() -> int:
        raise ValueError("no pixels")

    works = Works(1)
    results = ahead([works.of(0), broken])
    assert next(results) == 0
    with pytest.raises(ValueError, match="no pixels"):
        next(results)


def test_who_stops_early_waits_for_nothing() -> None:
    begun, free, after = threading.Event(), threading.Event(), Works(1)

    def slow() -> int:
        begun.set()
        assert free.wait(WAIT_S)
        return 1

    results = ahead([Works(1).of(0), slow, after.of(0)])
    assert next(results) == 0 and begun.wait(WAIT_S)
    results.close()  # comes back although `slow` is still at work
    free.set()
    assert not after.begun[0].wait(0.2)
