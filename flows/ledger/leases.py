"""Leases while units are made: one that is renewed, and those of other runs that are waited for."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence

from flows.errors import LeaseLost, LedgerUnavailable
from flows.ledger.schema import Lease, is_dead
from flows.ledger.store import Ledger

_log = logging.getLogger("unveil")
#: Consecutive failed renewals before a lease expires.
_BEATS_PER_LEASE = 4
#: Between two looks at units that other runs hold, seconds.
_POLL_S = 1.0


class Heartbeat:
    """Renews a lease from a thread while its context is open.

    A daemon thread: it ends with the process, so a dead process never renews.
    """

    def __init__(self, ledger: Ledger, lease: Lease) -> None:
        self._ledger, self._lease = ledger, lease
        self._stop, self._lost = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease {lease.work_id[:8]}", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
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
            LedgerUnavailable: the database does not answer.
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


def wait_for_others(ledger: Ledger, work_ids: Sequence[str], timeout_s: float) -> None:
    """Wait until no living run holds any of some units, or the time is over.

    Raises:
        LedgerUnavailable: the database does not answer.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        entries = ledger.of(work_ids).values()
        if not any(entry.held and not is_dead(entry.run_id) for entry in entries):
            return
        time.sleep(_POLL_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
