"""The Prefect tasks of a unit: restore, publish; the GPU slot."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prefect import task
from prefect.client.schemas.objects import State as PrefectState
from prefect.tasks import exponential_backoff

from flows.errors import KNOWN_ERRORS, LeaseLost, ServiceUnavailable
from flows.json_log import about_unit, json_log
from flows.ledger.schema import is_own
from flows.planning.search import read_items
from flows.planning.workunit import ModelRef, WorkUnit
from flows.processing.product import UnitFigures, make_product, publish_product
from flows.progress import tell
from flows.services.prefect_server import through_restart
from flows.settings import RunSettings
from stac.io.files import writing
from stac.search.sentinel_hub.client import METER

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


def is_retryable(_task: object, _run: object, state: PrefectState[Any]) -> bool:
    """Tell Prefect whether a failed task may be tried again: only after errors that can pass."""
    try:
        state.result()
    except KNOWN_ERRORS as error:
        return error.retryable
    except Exception:  # noqa: BLE001 - a task that died of anything else is not tried again
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


@dataclass(frozen=True, slots=True)
class Staged:
    """A product that waits to be published."""

    #: Its folder: of one execution of the task, so that a forgotten one elsewhere never writes into it.
    folder: str
    figures: UnitFigures
    #: What Sentinel Hub billed the process meanwhile.
    processing_units: float


@task(name="restore", task_run_name="restore {unit.target_id}", **RETRIES)
def restore(
    settings: Mapping[str, Any], unit: WorkUnit, scenes: str, model: ModelRef, staging: str, run_id: str
) -> Staged:
    """Restore one unit into a new folder below `staging`.

    Raises:
        LeaseLost: `staging` was cleared away: the unit belongs to another run, or its own has ended.
    """
    return _restore(settings, unit, scenes, model, staging, run_id)


def _restore(
    settings: Mapping[str, Any], unit: WorkUnit, scenes: str, model: ModelRef, staging: str, run_id: str
) -> Staged:
    # Tasks travel as they are, with all that they name: what belongs to a process is named by a plain function only.
    wanted, billed = RunSettings(**settings), METER.spent
    folder = Path(staging) / uuid.uuid4().hex[:8]
    with writing(folder):
        folder.mkdir()
    with _told(wanted, run_id, unit), gpu_slot(wanted.use_model):
        items = read_items(Path(scenes))
        figures = make_product(unit, items, wanted, model, folder, _progress_of(unit, folder))
    return Staged(str(folder), figures, METER.spent - billed)


@contextmanager
def _told(wanted: RunSettings, run_id: str, unit: WorkUnit) -> Iterator[None]:
    """Write the log of a unit where that of its run is written; the run's own process does so already."""
    if is_own(run_id):
        yield
        return
    with json_log(wanted.log_json, run_id), about_unit(unit.work_id):
        yield


def _progress_of(unit: WorkUnit, folder: Path) -> Callable[[str, int, int], None]:
    """Return what is told of progress; it also notices when nobody waits for the unit any more."""

    def progress(what: str, done: int, total: int) -> None:
        if not folder.is_dir():
            raise LeaseLost(f"Unit {unit.work_id} was taken over or given up: its folder {folder} was cleared away.")
        tell(f"{unit.target_id}: restoring {what}", done, total)

    return progress


@task(name="publish", task_run_name="publish {item_id}", **RETRIES)
def publish(settings: Mapping[str, Any], item_id: str, staging: str, collection: Mapping[str, Any]) -> str:
    """Publish a staged product; return the path of its item."""
    _log.info("publishing %s", item_id)
    return str(publish_product(Path(staging), RunSettings(**settings), collection))
