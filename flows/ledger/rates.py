"""How fast a ledger is: units claimed, begun and finished per second, and the time to look at a long one."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import asdict, dataclass

from sqlalchemy import URL, insert

from flows.ledger.book import Ledger
from flows.ledger.database import open_engine
from flows.ledger.records import Job, Lease, new_run_id
from flows.ledger.schema import work
from flows.ledger.states import State

_ROWS_AT_ONCE = 5000
_RUN, _HREF = new_run_id(), "catalog/unveil-cloud-free/S2A_33TWM_20230818_0_L2A-unveil-00000000/item.json"
#: As long as the document of a unit with six other dates.
_UNIT = json.dumps({"dates": [["S2A_33TWM_20230818_0_L2A"]] * 14, "cell_id": "MGRS-33TWM", "left_out": []})


@dataclass(frozen=True, slots=True)
class Rates:
    """Figures of one ledger."""

    #: Lines that were there before.
    lines: int
    #: Full lives of a unit (claim, start, fence, finish) per second, from one process; and how many were lived.
    units_per_s: float
    units: int
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
            live(ledger, _job(lines + number))
        lived = time.perf_counter()
        ledger.listing.page(50)
        paged = time.perf_counter()
        ledger.listing.counts()
        counted = time.perf_counter()
    finally:
        ledger.close()
    return Rates(lines, units / (lived - began), units, paged - lived, counted - paged)


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
    engine = open_engine(url)
    for first in range(0, lines, _ROWS_AT_ONCE):
        numbers = range(first, min(first + _ROWS_AT_ONCE, lines))
        with engine.begin() as connection:
            connection.execute(insert(work), [same | asdict(_job(n)) | {"updated": float(n)} for n in numbers])
    engine.dispose()
