"""The ledger as an operator sees it: counts, and one page of lines."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from flows.ledger.database import shown
from flows.ledger.schema import Entry, State
from flows.ledger.store import open_ledger, place_of
from flows.settings import RunSettings


@dataclass(frozen=True, slots=True)
class Status:
    """Counts and a page of the ledger."""

    #: The file, or the URL without password.
    ledger: str
    #: Units in each state.
    counts: dict[State, int]
    #: Held units whose lease has run out.
    expired: int
    #: Attempts beyond the first of every unit.
    retries: int
    entries: tuple[Entry, ...]
    #: `--after` of the next page; empty on the last one.
    next: str


def status(settings: RunSettings, *, state: State | None = None, limit: int = 50, after: str = "") -> Status:
    """Return counts and a page of lines, latest first; a ledger that does not exist yet is empty and stays so.

    Raises:
        InvalidSettings: `after` was not given out by an earlier page.
        FlowError: the ledger cannot be read.
    """
    url, _ = place_of(settings)
    if url.drivername == "sqlite" and not Path(str(url.database)).is_file():
        return Status(shown(url), dict.fromkeys(State, 0), 0, 0, (), "")
    with closing(open_ledger(settings)) as ledger:
        page = ledger.page(limit, state=state, after=after)
        return Status(shown(url), ledger.counts(), ledger.expired(), ledger.retries(), page.entries, page.next)
