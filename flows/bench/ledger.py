"""Measure planner and ledger at sizes up to a million units: cost of one more, and memory."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from sqlalchemy import URL

from flows.bench.machine import machine
from flows.bench.memory import MemoryWatch
from flows.bench.world import REVISIT_DAYS, SQUARES, WINDOW_DAYS, planned
from flows.ledger.database import parse_url
from flows.ledger.rates import Rates, measure
from flows.progress import tell
from flows.services.postgres import programs, start, stop

SIZES = (10_000, 100_000, 1_000_000)
#: Planning takes milliseconds a unit: enough of it to see whether cost or memory grow.
PLANS = (2_000, 20_000)
_FILE, _SERVER = "SQLite", "PostgreSQL"
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class PlanRates:
    """Planning one archive from its begin."""

    units: int
    seconds: float
    #: Units per second over the last tenth of them.
    last_per_s: float
    #: Resident memory when it began, and at most, bytes.
    before: int
    peak: int


@dataclass(frozen=True, slots=True)
class LedgerRates:
    """One database at one size."""

    database: str
    rates: Rates
    #: Resident memory of the measuring process when it began, and at most, bytes.
    before: int
    peak: int


@dataclass(frozen=True, slots=True)
class LedgerMeasurement:
    """Planner and ledgers."""

    plans: tuple[PlanRates, ...]
    ledgers: tuple[LedgerRates, ...]
    #: Seconds of everything.
    seconds: float


def bench_ledger(
    plans: Sequence[int] = PLANS,
    sizes: Sequence[int] = SIZES,
    lives: int = 10_000,
    server: str | None = None,
    databases: Sequence[str] = (_FILE, _SERVER),
) -> LedgerMeasurement:
    """Plan archives of some sizes, and live units in ledgers that hold so many lines.

    Args:
        plans: units to plan.
        sizes: lines in the ledger.
        lives: units that are claimed, begun, fenced and finished one after the other, at each size.
        server: URL of a PostgreSQL database that nobody uses; a private cluster when None, if the programs are there.
        databases: which of SQLite and PostgreSQL.

    Raises:
        FlowError: a ledger cannot be used.
    """
    began = time.monotonic()
    planning = tuple(_plan(units) for units in plans)
    with _opened(databases, server) as urls:
        ledgers = tuple(_ledger(name, url, size, lives) for name, url in urls.items() for size in sizes)
    return LedgerMeasurement(planning, ledgers, time.monotonic() - began)


def _plan(units: int) -> PlanRates:
    tell(f"planning {units:,} units")
    before, began, last = _resident(), time.monotonic(), 0.0
    with MemoryWatch(os.getpid()) as watch:
        for number, _ in enumerate(planned(units), start=1):
            if number == units - units // 10:
                last = time.monotonic()
    ended = time.monotonic()
    return PlanRates(units, ended - began, (units // 10) / (ended - last), before, watch.peak)


def _ledger(name: str, url: URL, lines: int, lives: int) -> LedgerRates:
    tell(f"{name}: {lines:,} lines")
    before = _resident()
    with MemoryWatch(os.getpid()) as watch:
        rates = measure(url, f"bench-{lines}", lines=lines, units=lives)
    return LedgerRates(name, rates, before, max(watch.peak, before))


@contextmanager
def _opened(wanted: Sequence[str], server: str | None) -> Iterator[dict[str, URL]]:
    """Yield the ledgers by name: a file, and a server where there is one."""
    with ExitStack() as stack:
        found: dict[str, URL] = {}
        if _FILE in wanted:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="unveil-bench-"))
            found[_FILE] = URL.create("sqlite", database=str(Path(folder) / "ledger.db"))
        if _SERVER in wanted and server is not None:
            found[_SERVER] = parse_url(server)
        elif _SERVER in wanted and programs() is not None:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="unveil-bench-", ignore_cleanup_errors=True)
            )
            stack.callback(stop, Path(folder))
            cluster = start(Path(folder))
            found[_SERVER] = parse_url(cluster.url(cluster.new_database()))
        yield found


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def as_markdown(measured: LedgerMeasurement, command: str) -> str:
    """Return a results page: machine, date, command, and a row per size."""
    hours = 1e6 / measured.plans[-1].last_per_s / 3600
    return "\n".join([
        "# Planner and ledger, measured",
        "",
        f"Command: `{command}`; {datetime.now(UTC):%Y-%m-%d}; {machine()}; {measured.seconds / 60:.0f} minutes.",
        "",
        f"**Planner.** A made-up archive of {SQUARES} grid squares, a cloudy pass every {REVISIT_DAYS} days, and six",
        f"other dates for each unit, planned in windows of {WINDOW_DAYS} days as `unveil backfill` does. Making items,",
        "which stands for the search, is part of the time. Only one window is in memory.",
        "",
        "| units | seconds | units/s | units/s, last tenth | memory at most, MiB | of it more than before |",
        "|---|---|---|---|---|---|",
        *(_plan_row(plan) for plan in measured.plans),
        "",
        f"A million units would take {hours:.1f} hours at the last rate, in the same memory; they were not planned.",
        "",
        *_ledger_part(measured.ledgers),
        "",
    ])  # fmt: skip


def _plan_row(plan: PlanRates) -> str:
    rate = plan.units / plan.seconds
    memory = f"{plan.peak / _MIB:.0f} | {(plan.peak - plan.before) / _MIB:.0f}"
    return f"| {plan.units:,} | {plan.seconds:.0f} | {rate:.0f} | {plan.last_per_s:.0f} | {memory} |"


def _ledger_part(ledgers: Sequence[LedgerRates]) -> Iterator[str]:
    lived = {ledger.rates.units for ledger in ledgers}
    yield "**Ledger.** The lines were there before: finished units with their documents, put in by the thousand. Then"
    yield f"{', '.join(f'{units:,}' for units in sorted(lived))} new units live their whole life one after the other,"
    yield "from one process: claim, start, fence, finish, each a transaction of its own. A page is the latest 50 lines."
    yield ""
    yield "| ledger | lines | lives/s | ms a unit | page, ms | counts, ms | memory, MiB | of it more than before |"
    yield "|---|---|---|---|---|---|---|---|"
    for ledger in ledgers:
        rates = ledger.rates
        memory = f"{ledger.peak / _MIB:.0f} | {(ledger.peak - ledger.before) / _MIB:.0f}"
        times = f"{1000 / rates.units_per_s:.2f} | {1000 * rates.page_s:.1f} | {1000 * rates.counts_s:.1f}"
        yield f"| {ledger.database} | {rates.lines:,} | {rates.units_per_s:.0f} | {times} | {memory} |"
    for name in dict.fromkeys(ledger.database for ledger in ledgers):
        own = [ledger.rates for ledger in ledgers if ledger.database == name]
        if len(own) > 1:
            ratio = own[0].units_per_s / own[-1].units_per_s
            yield ""
            few, many = f"{own[0].lines:,}", f"{own[-1].lines:,}"
            yield f"{name}: a unit costs {ratio:.2f} times as much among {many} lines as among {few}."
