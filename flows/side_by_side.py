"""Several things at once, each in a thread that mostly waits; the first failure stops them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from itertools import islice
from threading import Event
from typing import TypeVar

_T = TypeVar("_T")
#: How often it is looked whether more may go on at once, seconds.
_LOOK_S = 2.0
_MOST = 1024


def side_by_side(
    things: Iterable[_T], do: Callable[[_T, Event], None], width: Callable[[], int], stop: Callable[[], None]
) -> None:
    """Call `do` for everything in turn, with so many calls going on at once as `width` says at the time.

    With a width of 1 from the start all is done by the caller's own thread.

    Args:
        things: taken as they are needed.
        do: gets one of them, and an event that is set when it had better end.
        width: asked again and again: workers come and go.
        stop: called once when something was raised, here or in a call: it makes the calls in progress end.

    Raises:
        BaseException: whatever a call raised first, or what interrupted the caller; all calls have ended by then.
    """
    stopping, pending = Event(), iter(things)
    if width() == 1:
        for thing in pending:
            do(thing, stopping)
        return
    running: set[Future[None]] = set()
    with ThreadPoolExecutor(_MOST, thread_name_prefix="unit") as pool:
        try:
            while True:
                for thing in islice(pending, max(0, width() - len(running))):
                    # The flow is known by the context of its thread.
                    running.add(pool.submit(copy_context().run, do, thing, stopping))
                if not running:
                    return
                done, running = wait(running, _LOOK_S, FIRST_COMPLETED)
                for future in done:
                    future.result()
        except BaseException:
            stopping.set()
            stop()
            raise
