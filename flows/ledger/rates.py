"""How fast a ledger is: units claimed, begun and finished per second, and the time to look at a long one."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import URL, insert

from flows.ledger.book import Ledger
from flows.ledger.database import open_engine
from flows.ledger.records import Job, Lease, new_run_id
from flows.ledger.schema import work
from flows.ledger.states import State

_ROWS_AT_ONCE = 5000


@dataclass(frozen=True, slots=True)
class Rates:
    """Figures of one ledger."""

    #: Lines that were there before.
    lines: int
    #: Full lives of a unit (claim, start, fence, finish) per second, from one process.
    units_per_s: float
    #: Time to read the latest page of 50 lines, and the counts of all states, seconds.
    page_s: float
    counts_s: float


def measure(url: URL, catalog: str, *, lines: int, units: int) -> Rates:
    """Fill a ledger with `lines` finished units, then work through `units` new ones.

    The lines stay: name a database and a catalog that nobody uses.

    Raises:
        FlowError: the ledger cannot be used.
    """
    ledger = Ledger(url, catalog)
    try:
        _fill(url, catalog, lines)
        began = time.perf_counter()
        for number in range(units):
            _live(ledger, Job(f"new-{number:09d}", "item", "target"))
        lived = time.perf_counter()
        ledger.listing.page(50)
        paged = time.perf_counter()
        ledger.listing.counts()
        counted = time.perf_counter()
    finally:
        ledger.close()
    return Rates(lines, units / (lived - began), paged - lived, counted - paged)


def _live(ledger: Ledger, job: Job) -> None:
    lease = ledger.claim(job, new_run_id())
    if isinstance(lease, Lease) and ledger.start(lease) and ledger.renew(lease):
        ledger.finish(lease, State.SUCCEEDED, item_href="item.json", seconds=1.0)


def _fill(url: URL, catalog: str, lines: int) -> None:
    text = {"item_id": "item", "target_id": "target", "cell_id": "cell", "run_id": "host:1:x", "token": "", "error": ""}
    same = text | {"catalog": catalog, "state": State.SUCCEEDED, "attempts": 1, "lease_until": 0.0, "seconds": 1.0}
    same |= {"item_href": "item.json", "unit": "{}", "request_id": "", "created": 0.0}
    engine = open_engine(url)
    for first in range(0, lines, _ROWS_AT_ONCE):
        numbers = range(first, min(first + _ROWS_AT_ONCE, lines))
        with engine.begin() as connection:
            connection.execute(insert(work), [same | {"work_id": f"{n:09d}", "updated": float(n)} for n in numbers])
    engine.dispose()
