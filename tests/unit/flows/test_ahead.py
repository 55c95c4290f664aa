"""One more is made than the caller holds, or used up behind it: in order, never more, and no error is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from flows.processing.blocks import WriteBehind, prefetched

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
    results = prefetched(works.all)
    for number in range(3):
        assert next(results) == number
        assert works.begun[number + 1].wait(WAIT_S)
        assert not any(begun.is_set() for begun in works.begun[number + 2 :])
    assert list(results) == [3] and list(prefetched(())) == []


def test_an_error_comes_where_its_result_would() -> None:
    def broken() -> int:
        raise ValueError("no pixels")

    works = Works(1)
    results = prefetched([works.of(0), broken])
    assert next(results) == 0
    with pytest.raises(ValueError, match="no pixels"):
        next(results)


def test_who_stops_early_waits_for_nothing() -> None:
    begun, free, after = threading.Event(), threading.Event(), Works(1)

    def slow() -> int:
        begun.set()
        assert free.wait(WAIT_S)
        return 1

    results = prefetched([Works(1).of(0), slow, after.of(0)])
    assert next(results) == 0 and begun.wait(WAIT_S)
    results.close()  # comes back although `slow` is still at work
    free.set()
    assert not after.begun[0].wait(0.2)


def test_things_are_used_up_in_order_one_behind_the_caller() -> None:
    used, free = list[int](), threading.Event()

    def use(thing: int) -> None:
        assert free.wait(WAIT_S)
        used.append(thing)

    with WriteBehind(use) as behind:
        behind(0)
        assert not used, "the caller goes on"
        free.set()
        for thing in range(1, 4):
            behind(thing)
            assert used[:thing] == list(range(thing)), "one is at work, never two"
    assert used == [0, 1, 2, 3] and behind.waited > 0


@pytest.mark.parametrize("more", [True, False])
def test_an_error_behind_reaches_the_caller(more: bool) -> None:
    def full(thing: int) -> None:
        raise OSError(f"no room for {thing}")

    given = list[int]()
    with pytest.raises(OSError, match="no room for 0"), WriteBehind(full) as behind:
        behind(0)
        if more:
            behind(1)
            given.append(1)
    assert not given


def test_the_callers_error_is_reported_after_what_was_at_work() -> None:
    begun, used = threading.Event(), list[int]()

    def use(thing: int) -> None:
        begun.set()
        used.append(thing)

    with pytest.raises(KeyError), WriteBehind(use) as behind:
        behind(0)
        assert begun.wait(WAIT_S)
        raise KeyError
    assert used == [0]
