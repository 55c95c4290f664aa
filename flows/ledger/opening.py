"""The ledger of a run: where it is, and how an operator sees it."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL

from flows.ledger.database import parse_url, shown
from flows.ledger.schema import Entry, State
from flows.ledger.store import Ledger
from flows.settings import RunSettings


def place_of(settings: RunSettings) -> tuple[URL, str]:
    """Return where the ledger of a run is, and the name of the run's catalog in it.

    A file lies in the state folder and names the catalog by the way from there, so both can be moved together. A server
    is shared by machines, and names the catalog by its full address.

    Raises:
        InvalidSettings: `ledger_url` is not the URL of a ledger.
    """
    out = settings.out
    if settings.ledger_url is None:
        folder = settings.state.resolve()
        place = URL.create("sqlite", database=str(folder / "ledger.db"))
        return place, os.path.relpath(out.resolve(), folder) if isinstance(out, Path) else str(out)
    return parse_url(settings.ledger_url.get_secret_value()), str(out.resolve() if isinstance(out, Path) else out)


def open_ledger(settings: RunSettings) -> Ledger:
    """Open or create the ledger of a run.

    Raises:
        FlowError: it cannot be opened, or a newer version made it.
    """
    return Ledger(*place_of(settings), settings.lease_s)


def existing_ledger(settings: RunSettings) -> Ledger | None:
    """Open the ledger of a run for a look at it; None where its file does not exist, which is not made then.

    Raises:
        FlowError: it cannot be opened, or a newer version made it.
    """
    url, _ = place_of(settings)
    if url.drivername == "sqlite" and not Path(str(url.database)).is_file():
        return None
    return open_ledger(settings)


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
    """Return counts and a page of lines, latest first; a ledger that does not exist yet is empty and is not made.

    Raises:
        InvalidSettings: `after` was not given out by an earlier page.
        FlowError: the ledger cannot be read.
    """
    ledger = existing_ledger(settings)
    if ledger is None:
        return Status(shown(place_of(settings)[0]), dict.fromkeys(State, 0), 0, 0, (), "")
    with closing(ledger):
        page = ledger.page(limit, state=state, after=after)
        return Status(ledger.shown, ledger.counts(), ledger.expired(), ledger.retries(), page.entries, page.next)
