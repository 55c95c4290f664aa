"""The flow `backfill`: a long interval in windows, each a run of `clear-scenes`; finished work is recognised."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State as FlowState
from prefect.states import Failed

from flows.errors import KNOWN_ERRORS, InvalidSettings
from flows.ledger.schema import State
from flows.mosaic import run_clear_scenes
from flows.progress import report_progress
from flows.services.prefect_server import prefect_api, through_restart
from flows.settings import RunSettings
from flows.settings.loading import load_settings
from stac.errors import EmptySearch

#: Give up when so many windows in a row fail for a reason that has nothing to do with their scenes.
_FAILURES_IN_A_ROW = 3


@dataclass(frozen=True, slots=True)
class WindowResult:
    """How one window ended."""

    interval: str
    seconds: float
    scenes: int = 0
    #: Units that this run published, that were published before, and how the others ended.
    published: int = 0
    already_done: int = 0
    failed: int = 0
    invalid: int = 0
    #: Held by other runs to the end.
    running: int = 0
    #: Why the window could not be run, or what failed in it; empty when nothing did.
    error: str = ""

    @property
    def ok(self) -> bool:
        """Nothing of the window is left to do or to try again."""
        return not (self.error or self.running)


@dataclass(frozen=True, slots=True)
class BackfillSummary:
    """How a backfill ended."""

    windows: tuple[WindowResult, ...]
    #: Windows that were not begun because the ones before failed.
    left: int
    seconds: float

    @property
    def ok(self) -> bool:
        """All windows are done."""
        return not self.left and all(window.ok for window in self.windows)


def windows_of(start: datetime, end: datetime, days: int) -> list[str]:
    """Cut an interval into windows of some days; neighbours share an instant, so nothing falls between them."""
    cuts = [start]
    while end - cuts[-1] > timedelta(days=days):
        cuts.append(cuts[-1] + timedelta(days=days))
    cuts.append(end)
    return [f"{_instant(a)}/{_instant(b)}" for a, b in pairwise(cuts)]


@flow(name="backfill", log_prints=False, persist_result=False, retries=0)
def backfill(
    settings: RunSettings | None = None, window_days: int = 30
) -> BackfillSummary | FlowState[BackfillSummary]:
    """Run a long interval in windows, one after the other.

    The same call continues after a stop: finished windows cost a search. A window without scenes is done; one that
    fails does not stop the others, unless several in a row fail. Its run is Failed when something is left to do.

    Args:
        settings: as in a `--config` file; `datetime` is the whole interval.
        window_days: length of a window.

    Raises:
        InvalidSettings: no interval is named.
        InvalidQuery: area or interval make no sense.
    """
    began, wanted = time.monotonic(), settings or load_settings()
    if wanted.datetime is None:
        raise InvalidSettings("A backfill needs its whole interval; name it with --datetime 2019-01-01/2023-12-31.")
    windows = windows_of(wanted.query.start, wanted.query.end, window_days)
    results = tuple(_until_it_keeps_failing(wanted, windows))
    summary = BackfillSummary(results, len(windows) - len(results), time.monotonic() - began)
    rows = [asdict(window) for window in results]
    through_restart()(create_table_artifact, rows, key="backfill", description="Windows of this backfill")
    if summary.ok:
        return summary
    undone = summary.left + sum(not window.ok for window in results)
    return Failed(message=f"Of {len(windows)} windows {undone} are not done.", data=summary)


def run_backfill(settings: RunSettings, window_days: int) -> BackfillSummary:
    """Run the flow against the configured Prefect server, or a local one for as long as it takes.

    Raises:
        InvalidQuery: area or interval make no sense.
        ServiceUnavailable: no Prefect API answers.
    """
    _ = settings.query  # a wrong area or interval is reported before a server is started
    # As values that may be stored with the run: it finds secrets in the environment again.
    stored: Any = settings.shareable
    with prefect_api(settings.state):
        ended: Any = backfill(stored, window_days, return_state=True).result(raise_on_failure=False)
    if isinstance(ended, Exception):
        raise ended
    summary: BackfillSummary = ended
    return summary


def _until_it_keeps_failing(settings: RunSettings, windows: list[str]) -> Iterator[WindowResult]:
    failures = 0
    for number, interval in enumerate(windows):
        report_progress(f"window {interval}", number, len(windows))
        result = _run_window(settings.model_copy(update={"datetime": interval}))
        yield result
        failures = failures + 1 if result.error and not (result.failed or result.invalid or result.running) else 0
        if failures == _FAILURES_IN_A_ROW:
            return


def _run_window(settings: RunSettings) -> WindowResult:
    began, summary, problem = time.monotonic(), None, ""
    try:
        summary = run_clear_scenes(settings)
    except EmptySearch:
        pass
    except KNOWN_ERRORS as error:
        summary, problem = getattr(error, "summary", None), str(error)
    seconds = time.monotonic() - began
    if summary is None:
        return WindowResult(settings.shown_dates, seconds, error=problem)
    states = Counter(unit.state for unit in summary.units)
    return WindowResult(
        settings.shown_dates,
        seconds,
        scenes=summary.scenes,
        published=states[State.SUCCEEDED],
        already_done=len(summary.already_done),
        failed=states[State.FAILED],
        invalid=states[State.INVALID],
        running=states[State.RUNNING],
        error=problem,
    )


def _instant(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
