"""Process units side by side under leases of the ledger."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import asdict, dataclass, replace
from itertools import islice
from threading import Event
from typing import TypeVar

from flows.errors import KNOWN_ERRORS, LeaseLost, RunStopped, WorkersLost
from flows.json_log import about_unit
from flows.ledger.schema import Entry, Job, Lease, State
from flows.ledger.store import Heartbeat, Ledger
from flows.planning.workunit import WorkUnit
from flows.processing.product import UnitFigures
from flows.progress import tell
from stac.errors import InvalidInput
from stac.io.s3 import Location
from stac.io.secrets import redact

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


_log = logging.getLogger("unveil")
#: Between two looks at a unit that another run holds, seconds.
_POLL_S = 1.0
_HELD = "another run is working on it"
_ELSEWHERE = "published by another run"
_INVALID_HINT = "(found before; `unveil redrive --include-invalid` tries it again)"


@dataclass(frozen=True, slots=True)
class UnitResult:
    """How one work unit ended."""

    work_id: str
    item_id: str
    target_id: str
    state: State
    #: Path of the published item, empty without one.
    item_href: str
    figures: UnitFigures | None
    error: str
    #: What to know about a unit that succeeded, e.g. that its product waits for review.
    note: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """A published product."""

    item_href: str
    figures: UnitFigures
    #: What to know about it, e.g. that it waits for review.
    note: str = ""


@dataclass(frozen=True, slots=True)
class Worker:
    """What a run does with a unit, and what it asks."""

    ledger: Ledger
    run_id: str
    #: Settings and model of the run in the ledger.
    request_id: str
    #: Restores and publishes a unit; calls the fence just before publishing.
    make: Callable[[WorkUnit, Callable[[], None]], Made]
    #: Removes what a unit left in its staging folder.
    clean: Callable[[WorkUnit], None]
    #: Returns where a unit is published whole, None where it is not.
    published: Callable[[WorkUnit], Location | None]
    #: How long to wait in all, at the end, for units that other runs hold, seconds.
    held_wait_s: float = 0.0
    #: Try units again that were found INVALID.
    invalid_too: bool = False
    #: How many units may be worked on at once, now.
    width: Callable[[], int] = lambda: 1
    #: Makes what is being made end, where several are.
    stop: Callable[[], None] = lambda: None


def job_of(unit: WorkUnit, request_id: str) -> Job:
    """Return a unit as the ledger keeps it."""
    document = json.dumps(asdict(unit), sort_keys=True, separators=(",", ":"))
    return Job(unit.work_id, unit.item_id, unit.target_id, unit.cell_id, document, request_id)


def settle(ledger: Ledger, units: Sequence[WorkUnit], published: Mapping[str, Location], request_id: str) -> None:
    """Tell the ledger what is published: a run that died just after publishing could not."""
    done = [unit for unit in units if unit.work_id in published]
    known = ledger.listing.of([unit.work_id for unit in done])
    for unit in done:
        entry = known.get(unit.work_id)
        if entry is None or entry.state is not State.SUCCEEDED:
            ledger.settle(job_of(unit, request_id), str(published[unit.work_id]))


def work_through(worker: Worker, units: Sequence[WorkUnit]) -> list[UnitResult]:
    """Work on units in turn, so many at once as the worker says; come back at the end to those that others held.

    Raises:
        LedgerUnavailable: the ledger does not answer, so nobody can tell whose turn it is.
        WorkersLost: nobody is left to make anything; what was in hand is aborted.
    """
    results: dict[str, UnitResult] = {}
    held: list[WorkUnit] = []

    def first(unit: WorkUnit, _stopping: Event) -> None:
        found = _claim(worker, unit)
        if isinstance(found, Entry) and found.held:
            held.append(unit)
        else:
            results[unit.work_id] = _answer(worker, unit, found)

    def again(unit: WorkUnit, stopping: Event) -> None:
        results[unit.work_id] = _answer(worker, unit, _claim_when_free(worker, unit, deadline, stopping))

    side_by_side(units, first, worker.width, worker.stop)
    deadline = time.monotonic() + worker.held_wait_s
    side_by_side(held, again, worker.width, worker.stop)
    return [results[unit.work_id] for unit in units]


def _claim(worker: Worker, unit: WorkUnit) -> Lease | Entry:
    """Claim a unit, also one that was published once and is in the catalog no more."""
    job = job_of(unit, worker.request_id)
    again = {State.FAILED, State.ABORTED} | ({State.INVALID} if worker.invalid_too else set())
    found = worker.ledger.claim(job, worker.run_id, again=again)
    if isinstance(found, Entry) and found.state is State.SUCCEEDED and worker.published(unit) is None:
        return worker.ledger.claim(job, worker.run_id, again=again | {State.SUCCEEDED})
    return found


def _claim_when_free(worker: Worker, unit: WorkUnit, deadline: float, stopping: Event) -> Lease | Entry:
    while True:
        found = _claim(worker, unit)
        if not (isinstance(found, Entry) and found.held and time.monotonic() < deadline):
            return found
        tell(f"{unit.target_id}: waiting for another run")
        if stopping.wait(_POLL_S * random.uniform(0.5, 1.5)):  # noqa: S311 - jitter
            return found


def _answer(worker: Worker, unit: WorkUnit, found: Lease | Entry) -> UnitResult:
    if isinstance(found, Lease):
        return _work(worker, unit, found)
    if found.state is State.SUCCEEDED:
        return replace(_result(unit, State.SUCCEEDED, str(worker.published(unit) or found.item_href)), note=_ELSEWHERE)
    if found.state is State.INVALID:
        return _result(unit, State.INVALID, error=f"{found.error} {_INVALID_HINT}")
    return _result(unit, State.RUNNING, error=_HELD)


def _work(worker: Worker, unit: WorkUnit, lease: Lease) -> UnitResult:
    """Make one unit; whatever happens to it stays with it, and a lost lease leaves everything to the new holder."""
    began, result = time.monotonic(), _result(unit, State.ABORTED)
    with about_unit(unit.work_id), Heartbeat(worker.ledger, lease) as pulse:
        try:
            worker.ledger.start(lease)
            made = worker.make(unit, pulse.require)
            result = replace(_result(unit, State.SUCCEEDED, made.item_href, made.figures), note=made.note)
        except (RunStopped, WorkersLost) as error:
            # Nothing is wrong with the unit.
            result = _result(unit, State.ABORTED, error=str(error))
            raise
        except LeaseLost as error:
            _log.warning("%s", error)
            result = _result(unit, State.RUNNING, error=redact(str(error)))
        except KNOWN_ERRORS as error:
            state = State.INVALID if isinstance(error, InvalidInput) else State.FAILED
            result = _result(unit, state, error=redact(str(error)))
        except Exception as error:  # noqa: BLE001 - one bad scene must not stop the others, whatever is wrong with it
            _log.exception("unit %s (%s) failed", unit.work_id, unit.target_id)
            result = _result(unit, State.FAILED, error=redact(f"{type(error).__name__}: {error}"))
        finally:
            _end(worker, lease, unit, result, time.monotonic() - began)
    return result


def _end(worker: Worker, lease: Lease, unit: WorkUnit, result: UnitResult, seconds: float) -> None:
    """Record the end, and clean up, as long as the unit is ours."""
    if result.state is State.RUNNING or not worker.ledger.renew(lease):
        return
    worker.clean(unit)
    told = result.error or result.note
    _log.info("%s %s after %.1f s%s", unit.target_id, result.state, seconds, f": {told}" if told else "")
    worker.ledger.finish(lease, result.state, error=told, item_href=result.item_href, seconds=seconds)


def _result(
    unit: WorkUnit, state: State, item_href: str = "", figures: UnitFigures | None = None, error: str = ""
) -> UnitResult:
    return UnitResult(unit.work_id, unit.item_id, unit.target_id, state, item_href, figures, error)
