"""Planner and ledger: units from plan to end, and the life of units in ledgers of up to a million lines.

A unit takes some milliseconds: `--units 1000000` an hour. PostgreSQL is measured where `--ledger` names a database.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import fmean

import psutil
import pystac
from sqlalchemy import URL, TableClause, column, insert

from benchmarks.measuring import MemoryWatch
from benchmarks.report import Page, parser, publish, table
from flows.backfill import windows_of
from flows.cli.console import progress_bar
from flows.ledger.database import open_engine, parse_url
from flows.ledger.schema import Job, Lease, State, new_run_id
from flows.ledger.store import Ledger
from flows.planning.workunit import ModelRef, WorkUnit, make_plan
from flows.processing.unit import job_of
from flows.progress import report_progress
from flows.settings.loading import load_settings
from stac.search.opening import open_source
from stac.search.source import Query
from stac.search.static import SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog

SIZES = (10_000, 100_000, 1_000_000)
_MIB = 2**20
#: Grid squares of the archive, days between two passes, and days of a window that is planned at once.
SQUARES, REVISIT_DAYS, WINDOW_DAYS = 100, 5, 30
_BEGAN, _HOUR = datetime(2000, 1, 1, tzinfo=UTC), timedelta(hours=10)
_MODEL = ModelRef("unveil-de", "1", "0" * 64, "weights")
_ROWS_AT_ONCE = 5000
_RUN, _HREF = new_run_id(), "catalog/unveil-cloud-free/S2A_33TWM_20230818_0_L2A-unveil-00000000/item.json"
#: As long as the document of a unit with six other dates.
_UNIT = json.dumps({"dates": [["S2A_33TWM_20230818_0_L2A"]] * 14, "cell_id": "MGRS-33TWM", "left_out": []})


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
class Rates:
    """Figures of one database at one size."""

    database: str
    #: Lines that were there before.
    lines: int
    #: Full lives of a unit (claim, start, fence, finish) per second, from one process; and how many were lived.
    units_per_s: float
    units: int
    #: Time to read the latest page of 50 lines, and the counts of all states, seconds.
    page_s: float
    counts_s: float
    #: Resident memory of the measuring process when it began, and at most, bytes.
    before: int
    peak: int


@dataclass(frozen=True, slots=True)
class LedgerMeasurement:
    """Planner and ledgers."""

    carried: Carried
    ledgers: tuple[Rates, ...]
    #: Seconds of everything.
    seconds: float


def measure(units: int, sizes: Sequence[int], lives: int, server: str | None = None) -> LedgerMeasurement:
    """Carry units from plan to end, then live units in ledgers that hold so many lines.

    Args:
        units: to plan and carry through a new ledger in a file, ten at least.
        sizes: lines in the ledger.
        lives: units that are claimed, begun, fenced and finished one after the other, at each size.
        server: URL of a PostgreSQL database for this measurement alone.

    Raises:
        FlowError: a ledger cannot be used.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="unveil-bench-") as folder:
        carried = _carry(units, Path(folder) / "carried.db")
        urls = {"SQLite": URL.create("sqlite", database=str(Path(folder) / "ledger.db"))}
        if server is not None:
            urls["PostgreSQL"] = parse_url(server)
        ledgers = tuple(rates_of(name, url, size, lives) for name, url in urls.items() for size in sizes)
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
            report_progress("units from plan to end", done, units)
            tenths.append(_carry_some(pending, end - done, end, ledger))
        counts = {state: count for state, count in ledger.counts().items() if count}
    return Carried(tuple(tenths), before, watch.peak, file.stat().st_size, counts)


def _carry_some(pending: Iterator[WorkUnit], size: int, end: int, ledger: Ledger) -> Tenth:
    request_id, planning, living, last = ledger.save_request("{}"), 0.0, 0.0, time.perf_counter()
    for unit in islice(pending, size):
        planned_at = time.perf_counter()
        live(ledger, job_of(unit, request_id))
        lived_at = time.perf_counter()
        planning, living, last = planning + planned_at - last, living + lived_at - planned_at, lived_at
    return Tenth(end, planning / size, living / size, _resident())


def rates_of(name: str, url: URL, lines: int, units: int) -> Rates:
    """Fill a ledger with `lines` finished units, then work through `units` new ones; the lines stay."""
    report_progress(f"{name}: {lines:,} lines")
    before, catalog = _resident(), f"bench-{lines}"
    with MemoryWatch(os.getpid()) as watch, closing(Ledger(url, catalog)) as ledger:
        _fill(url, catalog, lines)
        began = time.perf_counter()
        for number in range(units):
            live(ledger, _job(lines + number))
        lived = time.perf_counter()
        ledger.page(50)
        paged = time.perf_counter()
        ledger.counts()
        counted = time.perf_counter()
    peak = max(watch.peak, before)
    return Rates(name, lines, units / (lived - began), units, paged - lived, counted - paged, before, peak)


def _job(number: int) -> Job:
    """Return a unit like those of a plan: ids without order, and a document of usual length."""
    name = str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))
    target = f"S2A_33TWM_{number:08d}_0_L2A"
    return Job(name, f"{target}-unveil-{name[:8]}", target, "MGRS-33TWM", _UNIT, "0" * 32)


def live(ledger: Ledger, job: Job) -> None:
    """Let a unit live its whole life: claimed, begun, fenced, finished; each a transaction of its own."""
    lease = ledger.claim(job, _RUN)
    if isinstance(lease, Lease) and ledger.start(lease) and ledger.renew(lease):
        ledger.finish(lease, State.SUCCEEDED, item_href=_HREF, seconds=1.0)


def _fill(url: URL, catalog: str, lines: int) -> None:
    same = {"catalog": catalog, "state": State.SUCCEEDED, "attempts": 1, "lease_until": 0.0, "seconds": 1.0}
    same |= {"run_id": "host:1:x", "token": "", "error": "", "item_href": _HREF, "created": 0.0}
    work = TableClause("work", *map(column, (*same, *asdict(_job(0)), "updated")))
    engine = open_engine(url)
    for first in range(0, lines, _ROWS_AT_ONCE):
        numbers = range(first, min(first + _ROWS_AT_ONCE, lines))
        with engine.begin() as connection:
            connection.execute(insert(work), [same | asdict(_job(n)) | {"updated": float(n)} for n in numbers])
    engine.dispose()


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def planned(units: int, squares: int = SQUARES) -> Iterator[WorkUnit]:
    """Plan so many units of the archive, window by window as `unveil backfill` does; only one window is in memory."""
    windows = units * REVISIT_DAYS // (squares * WINDOW_DAYS) + 1
    left, end = units, _BEGAN + timedelta(days=windows * WINDOW_DAYS)
    for interval in windows_of(_BEGAN, end, WINDOW_DAYS):
        wanted = load_settings(None, {"datetime": interval, "source": str(sample_catalog())})
        found = make_plan(scenes(wanted.search, squares), wanted, _MODEL).units[:left]
        yield from found
        left -= len(found)
        if not left:
            return


def scenes(query: Query, squares: int = SQUARES) -> list[pystac.Item]:
    """Return the scenes of the archive in an interval, as a search would."""
    revisit = timedelta(days=REVISIT_DAYS)
    first, last = max(0, (query.start - _BEGAN) // revisit), (query.end - _BEGAN) // revisit
    every = (_scene(number, square) for number in range(first, last + 1) for square in range(squares))
    return [item for item in every if item.datetime is not None and query.contains(item.datetime)]


def _scene(number: int, square: int) -> pystac.Item:
    """Return a scene that shares its assets with all others: planning reads them only."""
    pattern, when = _pattern(), _BEGAN + _HOUR + timedelta(days=number * REVISIT_DAYS, seconds=square)
    code = {"grid:code": f"MGRS-{square % 60 + 1:02d}T{square:03d}"}
    return pystac.Item(
        id=f"S2A_{square:05d}_{when:%Y%m%d}_0_L2A",
        geometry=pattern.geometry,
        bbox=pattern.bbox,
        datetime=when,
        properties=pattern.properties | code,
        assets=pattern.assets,
    )


@cache
def _pattern() -> pystac.Item:
    """Return a cloudy item of the sample."""
    query = Query.parse(SAMPLE_COLLECTION, None, SAMPLE_INTERVAL)
    items = open_source(str(sample_catalog())).search(query)
    return next(item for item in items if 5 <= item.properties["eo:cloud_cover"] <= 80)


def page_of(measured: LedgerMeasurement) -> Page:
    """Return the results page: a row per tenth of the units, and per size of the ledger."""
    parts = (*_carried_parts(measured.carried), *_ledger_parts(measured.ledgers))
    return Page("Planner and ledger, measured", parts, asdict(measured))


def _carried_parts(carried: Carried) -> Iterator[str]:
    first, last = carried.tenths[0], carried.tenths[-1]
    seconds = last.units * fmean(tenth.planning + tenth.ledger for tenth in carried.tenths)
    ratio = (last.planning + last.ledger) / (first.planning + first.ledger)
    yield (
        f"**From plan to end.** A made-up archive of {SQUARES} grid squares, a cloudy pass every {REVISIT_DAYS} days, "
        f"and six other dates for each unit, planned in windows of {WINDOW_DAYS} days as `unveil backfill` does. "
        "Making the scenes, which stands for the search, is part of planning. Each unit is claimed, begun, fenced and "
        "finished before the next one, each step a transaction of its own, in a SQLite ledger that begins empty. No "
        "pixel is read."
    )
    rows = [
        (f"{t.units:,}", f"{1000 * t.planning:.2f}", f"{1000 * t.ledger:.2f}", f"{t.resident / _MIB:.0f}")
        for t in carried.tenths
    ]
    yield table(("units", "planning, ms a unit", "ledger, ms a unit", "memory, MiB"), rows)
    yield (
        f"In the end {', '.join(f'{count:,} {state}' for state, count in carried.counts.items())}, after "
        f"{seconds / 60:.0f} minutes; the file has {carried.file_bytes / _MIB:,.0f} MiB. A unit of the last tenth cost "
        f"{ratio:.2f} times one of the first. Memory was {carried.before / _MIB:.0f} MiB before and "
        f"{carried.peak / _MIB:.0f} MiB at most."
    )


def _ledger_parts(ledgers: Sequence[Rates]) -> Iterator[str]:
    yield (
        "**Ledger.** The lines were there before: finished units with their documents, put in by the thousand. Then "
        f"{ledgers[0].units:,} new units live their whole life one after the other, from one process: claim, start, "
        "fence, finish, each a transaction of its own. A page is the latest 50 lines."
    )
    rows = [
        (
            r.database,
            f"{r.lines:,}",
            f"{r.units_per_s:.0f}",
            f"{1000 / r.units_per_s:.2f}",
            f"{1000 * r.page_s:.1f}",
            f"{1000 * r.counts_s:.1f}",
            f"{r.peak / _MIB:.0f}",
            f"{(r.peak - r.before) / _MIB:.0f}",
        )
        for r in ledgers
    ]
    head = (
        "ledger",
        "lines",
        "lives/s",
        "ms a unit",
        "page, ms",
        "counts, ms",
        "memory, MiB",
        "of it more than before",
    )
    yield table(head, rows)
    for name in dict.fromkeys(r.database for r in ledgers):
        few, *_, many = [r for r in ledgers if r.database == name] * 2
        if few.lines != many.lines:
            ratio = few.units_per_s / many.units_per_s
            yield f"{name}: a unit costs {ratio:.2f} times as much among {many.lines:,} lines as among {few.lines:,}."


if __name__ == "__main__":
    command = parser("ledger", __doc__)
    command.add_argument("--units", type=int, default=20_000, help="units that are planned and carried through")
    command.add_argument("--lines", type=int, default=SIZES[-1], help="most lines of a ledger that is measured")
    command.add_argument("--lives", type=int, default=10_000, help="units that live in each ledger")
    command.add_argument("--ledger", help="URL of a PostgreSQL database for this measurement alone")
    chosen = command.parse_args()
    with progress_bar():
        sizes = sorted({min(size, chosen.lines) for size in SIZES})
        found = measure(chosen.units, sizes, chosen.lives, chosen.ledger)
    publish("ledger", page_of(found), chosen)
