"""Sending requests: paced, bounded in time, tried again after passing failures, bodies read whole."""

from __future__ import annotations

import io
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from stac.access.addresses import check_address, require_public
from stac.access.secrets import login_of, with_query
from stac.errors import SourceUnavailable, UnsafeHref
from stac.sources.web.pace import DEFAULT_RATE, pace_of
from stac.sources.web.patience import Deadline, Patience, retry_after_s

_PIECE = 1 << 16
#: A longer body is no answer of a catalog, bytes.
_LARGEST = 64 << 20


class PatientAdapter(HTTPAdapter):
    """The transport of a `requests` session."""

    def __init__(
        self, patience: Patience, per_second: float = DEFAULT_RATE, named: Collection[str] = frozenset()
    ) -> None:
        """Set how servers are waited for, and which are asked.

        Args:
            patience: how long and how often a server is asked.
            per_second: requests a second that a host gets.
            named: hosts that the user named; all others must be on the internet, redirections included.
        """
        super().__init__(max_retries=0)
        self._patience, self._rate, self.named = patience, per_second, frozenset(named)
        # Where a proxy is asked, it connects, and these pools are not used.
        self.poolmanager.pool_classes_by_scheme = {
            "http": _pool(HTTPConnectionPool, self.named),
            "https": _pool(HTTPSConnectionPool, self.named),
        }
        self._deadline: Deadline | None = None

    @contextmanager
    def bounded(self, what: str) -> Iterator[None]:
        """Bound everything sent while the context is open by `Patience.total_s`; the outermost context counts."""
        if self._deadline is not None:
            yield
            return
        self._deadline = Deadline.after(self._patience.total_s, what)
        try:
            yield
        finally:
            self._deadline = None

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: ARG002 (bodies are always read here)
        timeout: Any = None,  # noqa: ARG002 (the patience says)
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Return the last answer, its body read whole.

        Raises:
            SourceUnavailable: the time is over, or the body is far too long.
            UnsafeHref: the host is inside this network, and not one that the user named.
            requests.RequestException: the last attempt got no answer.
        """
        url = request.url or ""
        check_address(url, self.named)
        _put_back(request, url)
        deadline = self._deadline or Deadline.after(self._patience.total_s, _without_query(url))
        pace = pace_of(urlsplit(url).netloc, self._rate)

        def once() -> requests.Response:
            deadline.sleep(pace.reserve())
            wait = max(0.001, min(self._patience.timeout_s, deadline.left()))
            try:
                answer = super(PatientAdapter, self).send(request, True, wait, verify, cert, dict(proxies or {}))
                _read_whole(answer, deadline)
            except requests.RequestException:
                deadline.check()  # the time may be over because it was all that was left
                raise
            if answer.status_code == requests.codes.too_many_requests:
                asked = retry_after_s(answer.headers.get("Retry-After"), self._patience.retry_after_unit_s) or 0.0
                pace.pause(min(asked, self._patience.longest_delay_s))
            return answer

        answer: requests.Response = self._patience.attempts(deadline)(once)
        return answer


def _put_back(request: requests.PreparedRequest, url: str) -> None:
    """Give a request the login and the query that were taken off its address."""
    request.url = with_query(url)
    login = login_of(url)
    if login is not None and "Authorization" not in request.headers:
        request.prepare_auth(login, request.url)


class _OutsideSession(requests.Session):
    """Follows a server's redirections, but not into this network, except to hosts that the user named."""

    def __init__(self, named: Collection[str]) -> None:
        super().__init__()
        self._named = named

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return where an answer sends us, if anywhere.

        Raises:
            UnsafeHref: into this network.
        """
        target = super().get_redirect_target(resp)
        if target is not None:
            try:
                check_address(urljoin(resp.url, target), self._named)
            except UnsafeHref as error:
                raise UnsafeHref(
                    f"{_without_query(resp.url)} sends us elsewhere, which is not followed: {error}"
                ) from None
        return target


def patient_session(adapter: PatientAdapter) -> requests.Session:
    """Return a session that sends everything through an adapter."""
    session = _OutsideSession(adapter.named)
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter)
    return session


def _pool(base: type[HTTPConnectionPool], named: frozenset[str]) -> type[HTTPConnectionPool]:
    """Return a connection pool whose connections end at a public address or at a host that the user named."""

    class Connection(base.ConnectionCls):  # type: ignore[name-defined]
        def _new_conn(self) -> socket.socket:
            connected: socket.socket = super()._new_conn()
            host = str(self.host).strip("[]").rstrip(".").lower()
            if host not in named:
                try:
                    require_public(host, [ip_address(connected.getpeername()[0].partition("%")[0])])
                except BaseException:
                    connected.close()
                    raise
            return connected

    return type(base.__name__, (base,), {"ConnectionCls": Connection})


def _read_whole(answer: requests.Response, deadline: Deadline) -> None:
    """Read the body, so that one cut short is noticed while it can still be asked for again."""
    body = io.BytesIO()
    try:
        # What is there, not a full piece: a server that drips bytes must not outlast the deadline.
        while piece := answer.raw.read1(_PIECE, decode_content=True):
            body.write(piece)
            deadline.check()
            if body.tell() > _LARGEST:
                raise SourceUnavailable(
                    f"{_without_query(answer.url)} sends more than {_LARGEST >> 20} MiB; narrow the search."
                )
    except urllib3.exceptions.HTTPError as error:
        answer.raw.close()
        raise requests.ConnectionError(f"the answer broke off ({type(error).__name__})") from error
    except SourceUnavailable:
        answer.raw.close()
        raise
    answer.raw.release_conn()
    body.seek(0)
    answer.raw = body


def _without_query(url: str) -> str:
    """Return a URL without what may be a secret in it."""
    return urlsplit(url)._replace(query="", fragment="").geturl()
