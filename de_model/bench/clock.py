"""What time is taken with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def clock(device: torch.device) -> float:
    """Return seconds of a clock that suits a device, after all that the device was given is done.

    On a CPU with one thread it is this process's own processor time: that of the wall on an idle machine, without what
    other work takes on a busy one. Several threads wait for each other, so theirs is the wall's, as a GPU's is.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's operators in one thread of the CPU while the context is open."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
