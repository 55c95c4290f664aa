"""Work done beside the caller by one thread: what comes next is made ahead, or what came before is used up behind."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


def ahead(works: Iterable[Callable[[], T]]) -> Generator[T]:
    """Yield the result of every work, in order; one more is at work or waiting than the caller holds.

    An error is raised where its result would have come. A caller that stops early waits for nothing: the work in hand
    ends by itself.
    """
    context = contextvars.copy_context()
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        next_one: Future[T] | None = None
        for work in works:
            current, next_one = next_one, pool.submit(context.run, work)
            if current is not None:
                yield current.result()
        if next_one is not None:
            yield next_one.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class Behind(Generic[T]):
    """Uses up things in order by a thread, one behind the caller; a context, at whose end all are used up.

    An error is raised when the next thing is given, or at the end. Where the caller fails, only what is at work ends.
    """

    def __init__(self, use: Callable[[T], None]) -> None:
        self._use, self._context = use, contextvars.copy_context()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._at_work: Future[None] | None = None
        #: Spent on waiting for the thread, seconds.
        self.waited = 0.0

    def __call__(self, thing: T) -> None:
        """Give the next thing, as soon as the one before is used up."""
        self._wait()
        self._at_work = self._pool.submit(self._context.run, self._use, thing)

    def __enter__(self) -> Behind[T]:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        try:
            if failed is None:
                self._wait()
        finally:
            self._pool.shutdown()

    def _wait(self) -> None:
        if self._at_work is not None:
            began = time.monotonic()
            self._at_work.result()
            self.waited += time.monotonic() - began
