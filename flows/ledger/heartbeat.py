"""Renewing a lease for as long as its holder works."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

from flows.errors import LeaseLost, LedgerUnavailable
from flows.ledger.book import Ledger
from flows.ledger.records import Lease

_log = logging.getLogger("unveil")
#: A lease survives that many beats in a row that do not reach the database.
_BEATS_PER_LEASE = 4


class Heartbeat:
    """Renews a lease from a thread while its context is open.

    The thread ends with the process, however that ends: nobody renews for the dead.
    """

    def __init__(self, ledger: Ledger, lease: Lease) -> None:
        self._ledger, self._lease = ledger, lease
        self._stop, self._lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease {lease.work_id[:8]}", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def lost(self) -> bool:
        """The unit is known to belong to another run by now."""
        return self._lost.is_set()

    def require(self) -> None:
        """Renew the lease now, or raise: the fence just before publishing.

        Raises:
            LeaseLost: another run has taken the unit over.
            LedgerUnavailable: the database does not answer, so nobody can tell.
        """
        if self.lost or not self._ledger.renew(self._lease):
            self._lost.set()
            raise LeaseLost(
                f"Unit {self._lease.work_id} was taken over by another run while attempt {self._lease.attempt} worked "
                "on it (its lease had run out); nothing of this attempt is published."
            )

    def _beat(self) -> None:
        pause = self._ledger.lease_s / _BEATS_PER_LEASE
        renewed = time.monotonic()
        while not self._stop.wait(pause):
            try:
                alive = self._ledger.renew(self._lease)
            except LedgerUnavailable as error:
                # The next beat may reach it; whether the lease is lost is for the fence to find out.
                _log.warning("lease not renewed for %.0f s: %s", time.monotonic() - renewed, error)
                continue
            if not alive:
                self._lost.set()
                return
            renewed = time.monotonic()
