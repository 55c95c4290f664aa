"""Prefect's API as this process asks it: which one is configured, whether it answers, and waiting for a restart."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from flows.errors import ServiceUnavailable
from flows.services.process import HEALTH_TIMEOUT_S
from stac.io.secrets import without_secret

#: Longest that a server may be away, seconds.
_OUTAGE_S = 120.0
#: Seconds to send what the client still holds.
FLUSH_TIMEOUT_S = 5.0
#: What is wrong where a server wants other credentials.
REFUSED = "refuses the credentials: set PREFECT_API_AUTH_STRING (or PREFECT_API_KEY) to those of the server."


def configured_api_url() -> str | None:
    """Return the Prefect API that environment, project file or profile name, or None."""
    # Importing prefect in a terminal sends usage data unless this is set before.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


def health_problem(url: str) -> str | None:
    """Return None when the Prefect API at `url` answers in time, else what is wrong."""
    from prefect.client.orchestration import get_client
    from prefect.settings import temporary_settings

    # The client knows the credentials of the profile, and it is the one the flow will use.
    quick = {"api.url": url, "client.max_retries": 0, "api.request_timeout": HEALTH_TIMEOUT_S}
    with (
        temporary_settings(quick),
        get_client(sync_client=True, httpx_settings={"timeout": HEALTH_TIMEOUT_S}) as client,
    ):
        try:
            # Unlike the health check, this needs the rights that a run needs.
            client.api_version()
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            return REFUSED if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) else f"HTTP status {status}"
        except (httpx.HTTPError, RuntimeError, ValueError) as error:
            return str(error) or type(error).__name__
    return None


def require_health(url: str) -> None:
    """Raise `ServiceUnavailable` unless the configured Prefect API answers, and takes the credentials."""
    problem = health_problem(url)
    if problem == REFUSED:
        raise ServiceUnavailable(f"The configured Prefect API {without_secret(url)} {REFUSED}")
    if problem is not None:
        raise ServiceUnavailable(
            f"The configured Prefect API {without_secret(url)} does not answer ({problem}): start that server, "
            "correct PREFECT_API_URL, or remove it (`prefect config unset PREFECT_API_URL`) to use a local server."
        )


@contextlib.contextmanager
def client_of(url: str, home: Path, auth_string: str) -> Iterator[None]:
    """Let flows called in this context report to the API at `url`, and keep what they write in `home`."""
    from prefect.settings import temporary_settings

    ours = {
        "home": home,
        "api.url": url,
        "api.key": None,
        "api.auth_string": auth_string,
        "results.local_storage_path": home / "storage",
        "server.ephemeral.enabled": False,
        "server.analytics_enabled": False,
    }
    with temporary_settings(ours):
        yield


def flush_client() -> None:
    """Send the logs and events that the client still holds, so that none is tried after the server has gone."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=FLUSH_TIMEOUT_S)


def through_restart() -> Retrying:
    """Return what calls a function again while no connection to the server can be made; then its error is raised.

    Prefect's own client asks again only when it has reached the server before, and each task makes new clients.
    """
    return Retrying(
        retry=retry_if_exception_type(httpx.TransportError),
        wait=wait_random_exponential(multiplier=0.5, max=10),
        stop=stop_after_delay(_OUTAGE_S),
        reraise=True,
    )
