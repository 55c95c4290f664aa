"""Process one work unit under a lease: claim, restore, check the fencing token, publish, record how it ended."""

from __future__ import annotations

import json
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pystac

from flows.errors import KNOWN_ERRORS, InvalidSettings, LeaseLost, RunStopped, is_unusable
from flows.ledger.database import shown
from flows.ledger.leases import Heartbeat
from flows.ledger.schema import Entry, Job, Lease, State, is_own
from flows.ledger.store import AGAIN, Ledger, open_ledger
from flows.planning.workunit import ModelRef, Unit
from flows.processing.publishing import catalog_of, discard_blocks, publish_staged, review_note
from flows.progress import report_progress
from flows.settings import RunSettings
from stac.catalog import product_collections
from stac.errors import StacError
from stac.io.files import writing
from stac.io.s3 import Location
from stac.io.secrets import redact
from stac.search.sentinel_hub.client import METER

if TYPE_CHECKING:
    from flows.processing.product import UnitFigures

_log = logging.getLogger("unveil")
_HELD = "another run is working on it; give the same command again when that has ended"
_ELSEWHERE = "published by another run"
_INVALID_HINT = "(found before; `unveil redrive --include-invalid` tries it again)"
#: Holds a slot of the GPU, where these settings use one, while its context is open.
Slot = Callable[[RunSettings], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Payload:
    """A unit with all that it takes to make it anywhere: what a worker gets."""

    unit: Unit
    #: STAC items of its dates, a JSON array.
    items: str

    def by_id(self) -> dict[str, pystac.Item]:
        """Return the source items by id."""
        return {item["id"]: pystac.Item.from_dict(item) for item in json.loads(self.items)}


@dataclass(frozen=True, slots=True)
class RunContext:
    """What all units of a run share. It holds no secret: each worker finds those in its own environment."""

    run_id: str
    #: `RunSettings.shareable`.
    settings: Mapping[str, Any]
    model: ModelRef
    #: JSON of the source's collection.
    collection: Mapping[str, Any]
    #: The ledger, as `shown` writes it: a worker that would open another one is refused.
    ledger: str
    #: Settings and model in the ledger; empty for mosaics, whose command plans them anew.
    request_id: str = ""
    #: Try units again that were found INVALID.
    invalid_too: bool = False


@dataclass(frozen=True, slots=True)
class UnitResult:
    """How one work unit ended."""

    work_id: str
    item_id: str
    target_id: str
    state: State
    #: Path of the published item, empty without one.
    item_href: str = ""
    #: None where this run did not make it.
    figures: UnitFigures | None = None
    error: str = ""
    #: What to know about a unit that succeeded, e.g. that its product waits for review.
    note: str = ""
    #: What Sentinel Hub billed a process other than that of the run.
    processing_units: float = 0.0


def payload_of(unit: Unit, items: Mapping[str, pystac.Item]) -> Payload:
    """Return a unit with its items."""
    names = dict.fromkeys(name for date in unit.dates for name in date)
    scenes = [items[name].to_dict(include_self_link=True, transform_hrefs=False) for name in names]
    return Payload(unit, json.dumps(scenes, separators=(",", ":")))


def job_of(unit: Unit, request_id: str) -> Job:
    """Return a unit as the ledger keeps it: with its plan where the request is kept, too."""
    document = json.dumps(asdict(unit), sort_keys=True, separators=(",", ":")) if request_id else ""
    return Job(unit.work_id, unit.item_id, unit.target_id, unit.cell_id, document, request_id)


def result_of(unit: Unit, state: State, **more: Any) -> UnitResult:
    """Return how a unit ended."""
    return UnitResult(unit.work_id, unit.item_id, unit.target_id, state, **more)


def failure_of(unit: Unit, error: BaseException) -> UnitResult:
    """Return how a unit ended whose processing raised an error."""
    if isinstance(error, RunStopped) or not isinstance(error, Exception):
        return result_of(unit, State.ABORTED, error=str(error))
    state = State.INVALID if is_unusable(error) else State.FAILED
    text = str(error) if isinstance(error, KNOWN_ERRORS) else f"{type(error).__name__}: {error}"
    return result_of(unit, state, error=redact(text))


def process_unit(payload: Payload, run: RunContext, slot: Slot) -> UnitResult:
    """Claim a unit, make it, publish its product, and record in the ledger how it ended.

    A unit that another run holds, has published or has found INVALID is skipped; the result says so.

    Raises:
        InvalidInput: the target cannot be used.
        StacError, DeModelError, FlowError: another try may help.
        LedgerUnavailable: the ledger does not answer, so that the unit cannot be claimed or its end recorded.
        RunStopped: the run was stopped meanwhile.
    """
    settings, unit = RunSettings(**run.settings), payload.unit
    with closing(_ledger_of(run, settings)) as ledger:
        found = _claim(ledger, unit, run, settings)
        if isinstance(found, Lease):
            return _make_under_lease(ledger, found, payload, run, settings, slot)
    if found.state is State.SUCCEEDED:
        place = str(published_place(unit, settings) or found.item_href)
        note = review_note(catalog_of(settings), unit.item_id) or _ELSEWHERE
        return result_of(unit, State.SUCCEEDED, item_href=place, note=note)
    if found.state is State.INVALID:
        return result_of(unit, State.INVALID, error=f"{found.error} {_INVALID_HINT}")
    return result_of(unit, State.RUNNING, error=_HELD)


def _make_under_lease(
    ledger: Ledger, lease: Lease, payload: Payload, run: RunContext, settings: RunSettings, slot: Slot
) -> UnitResult:
    """Make a claimed unit and record how it ended; a lost lease leaves everything to the new holder.

    Raises:
        BaseException: whatever making it raised, but for `LeaseLost`.
    """
    began, unit = time.monotonic(), payload.unit
    result = result_of(unit, State.ABORTED)
    with Heartbeat(ledger, lease) as pulse:
        try:
            ledger.start(lease)
            result = _make(payload, run, settings, slot, pulse)
        except LeaseLost as error:
            _log.warning("%s", error)
            result = result_of(unit, State.RUNNING, error=redact(str(error)))
        except BaseException as error:
            result = failure_of(unit, error)
            raise
        finally:
            if result.state is not State.RUNNING and ledger.renew(lease):
                clear_staging(unit.work_id, settings)
                seconds, text = time.monotonic() - began, result.error or result.note
                _log.info("%s %s after %.1f s%s", unit.target_id, result.state, seconds, f": {text}" if text else "")
                ledger.finish(lease, result.state, error=text, item_href=result.item_href, seconds=seconds)
    return result


def record_failure(ledger: Ledger, unit: Unit, run: RunContext, error: Exception) -> UnitResult:
    """Record the end of a unit whose workers were killed before they could."""
    result = failure_of(unit, error)
    lease = ledger.claim(job_of(unit, run.request_id), run.run_id)
    if isinstance(lease, Lease):
        ledger.finish(lease, result.state, error=result.error)
    return result


def published_place(unit: Unit, settings: RunSettings) -> Location | None:
    """Return where a unit is published whole, None where it is not."""
    return product_collections.published_place(catalog_of(settings), unit.item_id, unit.work_id, settings.gate_limits)


def clear_staging(work_id: str, settings: RunSettings) -> None:
    """Remove what a unit left in its staging folder."""
    with suppress(StacError):
        shutil.rmtree(catalog_of(settings).staging(work_id), ignore_errors=True)


def _ledger_of(run: RunContext, settings: RunSettings) -> Ledger:
    ledger = open_ledger(settings)
    if shown(ledger.url) == run.ledger:
        return ledger
    ledger.close()
    raise InvalidSettings(
        f"A worker would keep its work in the ledger {shown(ledger.url)}, the run in {run.ledger}; set "
        "UNVEIL_LEDGER_URL in the environment of the worker, too."
    )


def _claim(ledger: Ledger, unit: Unit, run: RunContext, settings: RunSettings) -> Lease | Entry:
    """Claim a unit, also one that was published once and is no longer in the catalog."""
    job = job_of(unit, run.request_id)
    again: Collection[State] = AGAIN | ({State.INVALID} if run.invalid_too else set())
    found = ledger.claim(job, run.run_id, again=again)
    if isinstance(found, Entry) and found.state is State.SUCCEEDED and published_place(unit, settings) is None:
        return ledger.claim(job, run.run_id, again={*again, State.SUCCEEDED})
    return found


def _make(payload: Payload, run: RunContext, settings: RunSettings, slot: Slot, pulse: Heartbeat) -> UnitResult:
    """Make a unit in a folder of this execution alone, and publish it if the lease still holds."""
    # PyTorch is loaded where a unit is made, not by a run with nothing to do.
    from flows.processing.product import make_product

    unit, catalog, billed = payload.unit, catalog_of(settings), METER.spent
    folder = catalog.staging(unit.work_id) / uuid.uuid4().hex[:8]
    with writing(folder):
        folder.mkdir()
    report_progress(f"{unit.target_id}: reading")
    items, progress = payload.by_id(), _progress_of(unit, folder, pulse)
    with slot(settings):
        made = make_product(unit, items, settings, run.model, folder, progress)
    report_progress(f"{unit.target_id}: publishing")
    pulse.require()
    href = str(publish_staged(folder, settings, run.collection))
    discard_blocks([unit.work_id], settings)
    elsewhere = 0.0 if is_own(run.run_id) else METER.spent - billed
    done = result_of(unit, State.SUCCEEDED, item_href=href, figures=made.figures, processing_units=elsewhere)
    return replace(done, note=" ".join(filter(None, (review_note(catalog, unit.item_id), _without(made.left_out)))))


def _without(left_out: Sequence[str]) -> str:
    """Return that a product was made without some of its dates; empty where it has all."""
    if not left_out:
        return ""
    number = "1 date is" if len(left_out) == 1 else f"{len(left_out)} dates are"
    return (
        f"{number} not used (metadata.json): {left_out[0]} Once that is repaired, `unveil retract` takes the product "
        "out, and the next run makes it with all dates."
    )


def _progress_of(unit: Unit, folder: Path, pulse: Heartbeat) -> Callable[[str, int, int], None]:
    """Return what reports progress; it also notices that the unit is no longer ours."""

    def progress(what: str, done: int, total: int) -> None:
        if pulse.lost or not folder.is_dir():
            raise LeaseLost(f"Unit {unit.work_id} was taken over or given up; nothing of this attempt is published.")
        report_progress(f"{unit.target_id}: restoring {what}", done, total)

    return progress
