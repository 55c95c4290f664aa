"""What all Prefect tasks share: retries by the type of the error, and the concurrency limit of the GPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
from prefect.client.schemas.objects import State
from prefect.tasks import exponential_backoff

from flows.errors import KNOWN_ERRORS, LedgerUnavailable, ServiceUnavailable
from flows.services.prefect_server import through_restart
from flows.settings import Device, RunSettings

#: Name of the global concurrency limit at the Prefect server.
GPU_LIMIT = "gpu"
_log = logging.getLogger("unveil")


def is_retryable(_task: object, _run: object, state: State[Any]) -> bool:
    """Return whether a failed task may be tried again: only after errors that can pass."""
    try:
        state.result()
    except LedgerUnavailable:  # the ledger has tried again by itself, and its run stops
        return False
    except KNOWN_ERRORS as error:
        return error.retryable
    except Exception:  # noqa: BLE001 - a task that ended with any other error is not tried again
        return False
    return False


#: Options of every task.
RETRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_retryable,
    "persist_result": False,
    "log_prints": False,
}


def gpus_of(settings: RunSettings | None = None) -> int:
    """Return how many GPUs of this machine a run uses, or how many there are; asking does not touch them."""
    if settings is not None and (settings.device is Device.CPU or not settings.use_model):
        return 0
    import torch

    return torch.cuda.device_count()


def ensure_gpu_limit(slots: int) -> None:
    """Create the concurrency limit `gpu` at the Prefect server where there is none; one that exists stays as it is."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU_LIMIT, limit=slots))


@contextmanager
def gpu_slot(settings: RunSettings | None = None) -> Iterator[None]:
    """Hold one slot of the limit `gpu` while the context is open; wait for it as long as needed.

    The slot is held under a lease of five minutes that is renewed from a thread: that of a killed run is free again
    soon, where a limit on task tags would keep it. A renewal that fails, as when the server is restarted, stops
    nothing; the server has to keep leases in files then (docs/operations.md).

    Nothing is held where no GPU is used.

    Args:
        settings: of a run; None for work that takes any GPU of this machine.

    Raises:
        ServiceUnavailable: the Prefect server does not answer for minutes.
    """
    slot = ExitStack()
    if gpus_of(settings):
        _acquire(slot)
    try:
        yield
    finally:
        try:
            slot.close()
        except httpx.HTTPError as error:
            # What was made under the slot is good.
            _log.warning("the GPU slot is free when its lease runs out: %s", type(error).__name__)


def _acquire(slot: ExitStack) -> None:
    from prefect.concurrency.sync import concurrency

    try:
        through_restart()(lambda: slot.enter_context(concurrency(GPU_LIMIT, occupy=1, strict=False)))
    except httpx.HTTPError as error:
        raise ServiceUnavailable(
            f"The Prefect server did not give the GPU slot ({type(error).__name__}); see that it runs."
        ) from error
