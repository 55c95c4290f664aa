"""Work done one step ahead: what comes next is made by a thread while the caller uses what came before."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

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
