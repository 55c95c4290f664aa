"""Sentinel Hub: deployments, processing units, and an authenticated client."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import requests
from sentinelhub import DownloadRequest, SentinelHubDownloadClient, SentinelHubSession, SHConfig

from stac.errors import AccessRefused, InvalidQuery, SourceUnavailable, StacError
from stac.io.addresses import host_of
from stac.io.http import PASSING, RetryPolicy, WebSession
from stac.search.providers import Provider

_ID, _SECRET = "SH_CLIENT_ID", "SH_CLIENT_SECRET"
#: Set to use another deployment than the provider's own.
_BASE_URL, _TOKEN_URL = "SH_BASE_URL", "SH_TOKEN_URL"
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Deployment:
    """One service with the credentials for it."""

    provider: Provider
    base_url: str
    token_url: str
    client_id: str = field(repr=False)
    client_secret: str = field(repr=False)

    @property
    def hosts(self) -> frozenset[str]:
        """Hosts of the service and of its tokens."""
        return frozenset({host_of(self.base_url), host_of(self.token_url)})

    @classmethod
    def from_environment(cls, provider: Provider) -> Deployment:
        """Return the deployment of a provider with the credentials of the environment, which is their only source.

        Raises:
            AccessRefused: the credentials are missing, or would be sent unencrypted.
        """
        missing = [name for name in (_ID, _SECRET) if not os.environ.get(name)]
        if missing:
            raise AccessRefused(
                f"{provider.title} needs an OAuth client: set {' and '.join(missing)} in the environment."
            )
        base, token = os.environ.get(_BASE_URL, provider.url), os.environ.get(_TOKEN_URL, provider.token_url or "")
        for url in (base, token):
            _check_encrypted(url)
        return cls(provider, base.rstrip("/"), token, os.environ[_ID], os.environ[_SECRET])


def _check_encrypted(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise AccessRefused(
            f"{url} is not https, so no credentials are sent there; correct {_BASE_URL} or {_TOKEN_URL}."
        )


class UnitMeter:
    """Counts the processing units this process has spent, as the service reports them."""

    def __init__(self) -> None:
        """Start at nothing spent."""
        self._lock = threading.Lock()
        self._spent = 0.0

    def add(self, units: float) -> None:
        """Count one answered request."""
        with self._lock:
            self._spent += units

    @property
    def spent(self) -> float:
        """Units spent so far."""
        with self._lock:
            return self._spent


#: Everything this process reads from Sentinel Hub.
METER = UnitMeter()


_log = logging.getLogger(__name__)
#: A token is renewed this long before its end, seconds; the shortest-lived one (Copernicus) lasts 600.
_RENEW_BEFORE_S = 60
_UNITS_HEADER = "X-ProcessingUnits-Spent"


class TokenSession(SentinelHubSession):
    """Holds the access token of one OAuth client and renews it; safe for threads."""

    def __init__(self, deployment: Deployment, retry_policy: RetryPolicy) -> None:
        """Ask for the first token.

        Raises:
            AccessRefused: the credentials are wrong.
            SourceUnavailable: no token came in time.
        """
        self._deployment = deployment
        self._renewing = threading.RLock()
        self._sender = WebSession(retry_policy, deployment.provider.requests_per_s, deployment.hosts)
        self._token: dict[str, Any]  # the library's
        super().__init__(_config(deployment), refresh_before_expiry=_RENEW_BEFORE_S)

    @property
    def hosts(self) -> frozenset[str]:
        """Those of the deployment."""
        return self._deployment.hosts

    @property
    def token(self) -> dict[str, Any]:
        """The access token, renewed where it ends soon."""
        with self._renewing:
            return dict(super().token)

    def renew(self, refused: str) -> None:
        """Replace the token, unless another thread has done so since `refused` was sent."""
        with self._renewing:
            if self._token["access_token"] == refused:
                self._token = self._collect_new_token()

    def _collect_new_token(self) -> dict[str, Any]:
        """Fetch a token with the client's credentials (RFC 6749, section 4.4)."""
        where = self._deployment
        grant = {"grant_type": "client_credentials", "client_id": where.client_id, "client_secret": where.client_secret}
        answer = self._sender.post(where.token_url, data=grant, allow_redirects=False)
        if answer.status_code != HTTPStatus.OK:
            raise _refusal(where.token_url, answer, "check SH_CLIENT_ID and SH_CLIENT_SECRET")
        try:
            token = answer.json()
            return {"access_token": str(token["access_token"]), "expires_at": time.time() + float(token["expires_in"])}
        except (ValueError, TypeError, KeyError) as error:
            raise SourceUnavailable(
                f"{where.token_url} answers something that is not an access token; try again later."
            ) from error


_SESSIONS: dict[Deployment, TokenSession] = {}
_SESSIONS_LOCK = threading.Lock()


def session_of(deployment: Deployment, retry_policy: RetryPolicy) -> TokenSession:
    """Return the session of a deployment, the same one for every thread.

    Raises:
        AccessRefused: the credentials are wrong.
        SourceUnavailable: no token came in time.
    """
    with _SESSIONS_LOCK:
        if deployment not in _SESSIONS:
            _SESSIONS[deployment] = TokenSession(deployment, retry_policy)
        return _SESSIONS[deployment]


class HubClient(SentinelHubDownloadClient):
    """Sends requests with our retry policy and counts what they cost."""

    def __init__(self, session: TokenSession, retry_policy: RetryPolicy, per_second: float) -> None:
        """Use a session's tokens; one client belongs to one thread."""
        super().__init__(session=session, config=session.config)
        self.sender = WebSession(retry_policy, per_second, session.hosts)
        self._tokens = session

    def _do_download(self, request: DownloadRequest) -> requests.Response:
        """Send one request; a refused token is renewed once.

        Raises:
            AccessRefused: the token is refused twice, or the account may not do this.
            InvalidQuery: the service does not understand the request.
            SourceUnavailable: it does not answer, or refuses for a passing reason.
        """
        answer = self._send(request)
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            sent = str(answer.request.headers.get("Authorization", "")).removeprefix("Bearer ")
            self._tokens.renew(sent)
            answer = self._send(request)
        if answer.status_code >= HTTPStatus.BAD_REQUEST:
            raise _refusal(str(request.url), answer, "check what the account may do and its quota")
        if units := answer.headers.get(_UNITS_HEADER):
            METER.add(float(units))
            _log.info("%s: %s processing units, %.3f in all", request.url, units, METER.spent)
        return answer

    def _send(self, request: DownloadRequest) -> requests.Response:
        return self.sender.request(
            request.request_type.value,
            str(request.url),
            json=request.post_values,
            headers=self._prepare_headers(request),
            allow_redirects=False,
        )


def _config(deployment: Deployment) -> SHConfig:
    """Return the library's settings: ours alone, no file of the user, and no attempts beside the transport's."""
    return SHConfig(
        use_defaults=True,
        sh_client_id=deployment.client_id,
        sh_client_secret=deployment.client_secret,
        sh_base_url=deployment.base_url,
        sh_token_url=deployment.token_url,
        max_download_attempts=1,
        max_retries=1,
    )


def _refusal(url: str, answer: requests.Response, remedy: str) -> StacError:
    """Return what an answer of 400 and above means."""
    said = f"{answer.status_code} {answer.reason or ''}".strip()
    if answer.status_code in PASSING:
        return SourceUnavailable(f"{url} answers {said}, also after retries; try again later.")
    if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return AccessRefused(f"{url} answers {said}; {remedy}.")
    return InvalidQuery(f"{url} answers {said} ({_message(answer)}); {remedy}.")


def _message(answer: requests.Response) -> str:
    """Return the service's own words, shortened."""
    try:
        document = answer.json()
        error = document.get("error", document) if isinstance(document, dict) else document
        text = error.get("message", error) if isinstance(error, dict) else error
    except ValueError:
        text = answer.text
    return " ".join(str(text).split())[:200]
