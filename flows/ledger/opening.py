"""Where the ledger of a run is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL

from flows.ledger.book import Ledger
from flows.ledger.database import parse_url

if TYPE_CHECKING:
    from flows.settings import RunSettings

FILE_NAME = "ledger.db"


def ledger_place(state: Path, out: str, ledger_url: str | None) -> tuple[URL, str]:
    """Return where the ledger is and the name of a catalog in it.

    A file lies in the state folder and names the catalog by the way from there, so both can be moved together. A server
    is shared by machines, and names the catalog by its full address.

    Args:
        state: the state folder.
        out: folder or URL of the catalog.
        ledger_url: the setting; a file in the state folder when None.

    Raises:
        InvalidSettings: the URL is none of a ledger.
    """
    remote = "://" in out
    if ledger_url is None:
        folder = state.resolve()
        place = URL.create("sqlite", database=str(folder / FILE_NAME))
        return place, out if remote else os.path.relpath(Path(out).resolve(), folder)
    return parse_url(ledger_url), out if remote else str(Path(out).resolve())


def place_of(settings: RunSettings) -> tuple[URL, str]:
    """Return where the ledger of a run is, and the name of the run's catalog in it.

    Raises:
        InvalidSettings: `ledger_url` is none of a ledger.
    """
    secret = settings.ledger_url
    return ledger_place(settings.state, str(settings.out), None if secret is None else secret.get_secret_value())


def open_ledger(settings: RunSettings) -> Ledger:
    """Open or create the ledger of a run.

    Raises:
        FlowError: it cannot be opened, or a newer version made it.
    """
    return Ledger(*place_of(settings), settings.lease_s)
