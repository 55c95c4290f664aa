"""Measure planner and ledger at sizes up to a million units: cost of one more, and memory."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from statistics import fmean

import psutil
from sqlalchemy import URL

from flows.bench.machine import machine
from flows.bench.memory import MemoryWatch
from flows.bench.world import REVISIT_DAYS, SQUARES, WINDOW_DAYS, planned
from flows.ledger.book import Ledger
from flows.ledger.database import parse_url
from flows.ledger.rates import Rates, live, measure
from flows.ledger.states import State
from flows.progress import tell
from flows.services.postgres import programs, start, stop
from flows.work import WorkUnit
from flows.working import job_of

SIZES = (10_000, 100_000, 1_000_000)
#: Units that are planned and carried through a ledger: enough of them to see whether cost or memory grow.
UNITS = 20_000
_FILE, _SERVER = "SQLite", "PostgreSQL"
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Tenth:
    """A tenth of the units that were planned and carried through a ledger."""

    #: So many were there at its end.
    units: int
    #: Of a unit: planning, making scenes included, and the ledger, seconds.
    planning: float
    ledger: float
    #: Resident memory at its end, bytes.
    resident: int


@dataclass(frozen=True, slots=True)
class Carried:
    """Units planned from an archive's begin, each claimed, begun, fenced and finished before the next."""

    tenths: tuple[Tenth, ...]
    #: Resident memory when it began, and at most, bytes.
    before: int
    peak: int
    #: Of the ledger's file in the end, bytes; and its units by state.
    file_bytes: int
    counts: Mapping[State, int]


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

    carried: Carried
    ledgers: tuple[LedgerRates, ...]
    #: Seconds of everything.
    seconds: float


def bench_ledger(
    units: int = UNITS,
    sizes: Sequence[int] = SIZES,
    lives: int = 10_000,
    server: str | None = None,
    databases: Sequence[str] = (_FILE, _SERVER),
) -> LedgerMeasurement:
    """Carry units from plan to end, then live units in ledgers that hold so many lines.

    Args:
        units: to plan and carry through a new ledger in a file, ten at least.
        sizes: lines in the ledger.
        lives: units that are claimed, begun, fenced and finished one after the other, at each size.
        server: URL of a PostgreSQL database that nobody uses; a private cluster when None, if the programs are there.
        databases: which of SQLite and PostgreSQL.

    Raises:
        FlowError: a ledger cannot be used.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="unveil-bench-") as folder:
        carried = _carry(units, Path(folder) / "ledger.db")
    with _opened(databases, server) as urls:
        ledgers = tuple(_ledger(name, url, size, lives) for name, url in urls.items() for size in sizes)
    return LedgerMeasurement(carried, ledgers, time.monotonic() - began)


def _carry(units: int, file: Path) -> Carried:
    """Plan window by window and live every unit at once, in a ledger that begins empty."""
    before, pending = _resident(), planned(units)
    with (
        MemoryWatch(os.getpid()) as watch,
        closing(Ledger(URL.create("sqlite", database=str(file)), "bench")) as ledger,
    ):
        tenths: list[Tenth] = []
        for end in (units * tenth // 10 for tenth in range(1, 11)):
            done = tenths[-1].units if tenths else 0
            tell("units from plan to end", done, units)
            tenths.append(_carry_some(pending, end - done, end, ledger))
        counts = {state: count for state, count in ledger.listing.counts().items() if count}
    return Carried(tuple(tenths), before, watch.peak, file.stat().st_size, counts)


def _carry_some(pending: Iterator[WorkUnit], size: int, end: int, ledger: Ledger) -> Tenth:
    request_id, planning, living, last = ledger.remember("{}"), 0.0, 0.0, time.perf_counter()
    for unit in islice(pending, size):
        planned_at = time.perf_counter()
        live(ledger, job_of(unit, request_id))
        lived_at = time.perf_counter()
        planning, living, last = planning + planned_at - last, living + lived_at - planned_at, lived_at
    return Tenth(end, planning / size, living / size, _resident())


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
    """Return a results page: machine, date, command, and a row per tenth and size."""
    return "\n".join([
        "# Planner and ledger, measured",
        "",
        f"Command: `{command}`; {datetime.now(UTC):%Y-%m-%d}; {machine()}; {measured.seconds / 60:.0f} minutes.",
        "",
        *_carried_part(measured.carried),
        "",
        *_ledger_part(measured.ledgers),
        "",
    ])  # fmt: skip


def _carried_part(carried: Carried) -> Iterator[str]:
    first, last = carried.tenths[0], carried.tenths[-1]
    seconds = last.units * fmean(tenth.planning + tenth.ledger for tenth in carried.tenths)
    ratio = (last.planning + last.ledger) / (first.planning + first.ledger)
    yield f"**From plan to end.** A made-up archive of {SQUARES} grid squares, a cloudy pass every {REVISIT_DAYS} days,"
    yield f"and six other dates for each unit, planned in windows of {WINDOW_DAYS} days as `unveil backfill` does."
    yield "Making the scenes, which stands for the search, is part of planning. Each unit is claimed, begun, fenced and"
    yield "finished before the next one, each step a transaction of its own, in a SQLite ledger that begins empty. No"
    yield "pixel is read."
    yield ""
    yield "| units | planning, ms a unit | ledger, ms a unit | memory, MiB |"
    yield "|---|---|---|---|"
    for tenth in carried.tenths:
        times = f"{1000 * tenth.planning:.2f} | {1000 * tenth.ledger:.2f}"
        yield f"| {tenth.units:,} | {times} | {tenth.resident / _MIB:.0f} |"
    yield ""
    yield f"In the end {', '.join(f'{count:,} {state}' for state, count in carried.counts.items())},"
    yield f"after {seconds / 60:.0f} minutes; the file has {carried.file_bytes / _MIB:,.0f} MiB. A unit of the last"
    yield f"tenth cost {ratio:.2f} times one of the first. Memory was {carried.before / _MIB:.0f} MiB before and"
    yield f"{carried.peak / _MIB:.0f} MiB at most."


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
