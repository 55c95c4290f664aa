"""Sitting out a restart of the Prefect server."""

from __future__ import annotations

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

#: Longest that a server may be away, seconds.
OUTAGE_S = 120.0


def through_restart(outage_s: float = OUTAGE_S) -> Retrying:
    """Return what calls a function again while no connection to the server can be made; then its error is raised.

    Prefect's own client asks again only when it has reached the server before, and each task makes new clients.

    Args:
        outage_s: longest that is waited, seconds.
    """
    return Retrying(
        retry=retry_if_exception_type(httpx.TransportError),
        wait=wait_exponential_jitter(initial=0.5, max=10),
        stop=stop_after_delay(outage_s),
        reraise=True,
    )
