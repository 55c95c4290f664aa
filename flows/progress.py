"""Telling whoever listens how far the work is. A worker has no listener; the command draws bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """What is going on."""

    text: str
    done: int = 0
    #: 0 while unknown.
    total: int = 0


_listeners: list[Callable[[Event], None]] = []


@contextmanager
def listening(listener: Callable[[Event], None]) -> Iterator[None]:
    """Call `listener` with every event of this process while the context is open."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(text: str, done: int = 0, total: int = 0) -> None:
    """Tell all listeners."""
    for listener in _listeners:
        listener(Event(text, done, total))
