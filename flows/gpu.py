"""The GPU slot: how many model runs go on at once, whatever flow, worker or machine they belong to."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx

from flows.errors import ServiceUnavailable
from flows.services.outage import through_restart

#: Name of the global concurrency limit at the Prefect server. Without such a limit nobody waits.
GPU_LIMIT = "gpu"
_log = logging.getLogger("unveil")


@contextmanager
def gpu_slot(wanted: bool = True) -> Iterator[None]:
    """Hold one slot of the limit `gpu` while the context is open; wait for it as long as needed.

    The slot is held under a lease of five minutes that is renewed from a thread: that of a killed run is free again
    soon, where a limit on task tags would keep it. A renewal that fails, as when the server is restarted, stops
    nothing; the server has to keep leases in files then (docs/operations.md).

    Args:
        wanted: False where no model runs.

    Raises:
        ServiceUnavailable: the Prefect server does not answer for minutes.
    """
    slot = ExitStack()
    if wanted:
        _take(slot)
    try:
        yield
    finally:
        try:
            slot.close()
        except httpx.HTTPError as error:
            # What was made under the slot is good.
            _log.warning("the GPU slot is free when its lease runs out: %s", type(error).__name__)


def _take(slot: ExitStack) -> None:
    from prefect.concurrency.sync import concurrency

    try:
        through_restart()(lambda: slot.enter_context(concurrency(GPU_LIMIT, occupy=1, strict=False)))
    except httpx.HTTPError as error:
        raise ServiceUnavailable(
            f"The Prefect server did not give the GPU slot ({type(error).__name__}); see that it runs."
        ) from error
