"""HTTP sessions: retries with one deadline, rate limits, and a check of every address a request reaches."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_result,
    stop_after_attempt,
    wait_random_exponential,
)
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from stac.errors import SourceUnavailable, UnsafeHref
from stac.io.addresses import check_address, require_public
from stac.io.secrets import login_of, with_query

#: What a host bears that says nothing else.
DEFAULT_RATE = 10.0
#: Requests that may be sent at once after a rest, in seconds' worth of the rate.
_BURST_S = 1.0
#: Answers that may be better a moment later.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
#: The connection broke, was refused, or nothing came in time.
_BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
_PIECE = 1 << 16
#: A longer body is not an answer of a catalog, bytes.
_LARGEST = 64 << 20


class Pace:
    """Hands out moments at which a request may be sent."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with a full bucket.

        Args:
            per_second: requests a second in the long run, above 0.
            clock: seconds on a clock that never runs backwards.
        """
        self._step = 1 / per_second
        self._burst = max(0.0, _BURST_S - self._step)
        self._clock = clock
        self._lock = threading.Lock()
        self._next = clock() - self._burst

    def reserve(self) -> float:
        """Take the next free moment; return how long to wait for it, seconds."""
        with self._lock:
            now = self._clock()
            moment = max(self._next, now - self._burst)
            self._next = moment + self._step
            return max(0.0, moment - now)

    def pause(self, seconds: float) -> None:
        """Let nothing be sent for a while: the host asked for it."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


_PACES: dict[tuple[str, float], Pace] = {}
_PACES_LOCK = threading.Lock()


def pace_of(host: str, per_second: float = DEFAULT_RATE) -> Pace:
    """Return the bucket of a host, the same one for every thread."""
    with _PACES_LOCK:
        return _PACES.setdefault((host, per_second), Pace(per_second))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a server is waited for; nothing is ever asked without an end."""

    #: Longest silence of one request, seconds.
    timeout_s: float = 30.0
    #: A whole search, with all its pages, attempts and waits, seconds.
    total_s: float = 600.0
    #: Attempts after the first.
    retries: int = 4
    #: Upper bound of the first wait, doubled with each attempt; the wait is drawn between 0 and the bound
    #: ("full jitter": https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    first_delay_s: float = 0.5
    #: Longest wait between two attempts; a server that asks for more is given up.
    longest_delay_s: float = 60.0
    #: Unit of a number in `Retry-After`; Sentinel Hub means milliseconds.
    retry_after_unit_s: float = 1.0

    def attempts(self, deadline: Deadline) -> Retrying:
        """Return the policy that calls a function until its answer is not a passing failure.

        The last answer is returned, the last error raised. A wait that `Retry-After` asks for is kept, with
        jitter on top; one that is too long ends the attempts at once.
        """
        return Retrying(
            retry=retry_if_result(lambda answer: answer.status_code in PASSING) | retry_if_exception(_is_passing),
            stop=lambda state: (
                stop_after_attempt(self.retries + 1)(state)
                or state.upcoming_sleep > min(self.longest_delay_s + self.first_delay_s, deadline.left())
            ),
            wait=self._wait,
            retry_error_callback=_last,
        )

    def _wait(self, state: RetryCallState) -> float:
        jittered = wait_random_exponential(self.first_delay_s, self.longest_delay_s)
        answer = None if state.outcome is None or state.outcome.failed else state.outcome.result()
        asked = None if answer is None else retry_after_s(answer.headers.get("Retry-After"), self.retry_after_unit_s)
        if asked is None:
            return float(jittered(state))
        return asked + min(float(jittered(state)), self.first_delay_s)


def _is_passing(error: BaseException) -> bool:
    """Distinguish a broken connection from a certificate that will be as wrong a moment later."""
    return isinstance(error, _BROKEN) and not isinstance(error, requests.exceptions.SSLError)


def _last(state: RetryCallState) -> Any:
    """Return the last answer, or raise the last error."""
    return None if state.outcome is None else state.outcome.result()


def retry_after_s(header: str | None, unit_s: float = 1.0) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, None where it asks for nothing.

    Args:
        header: a number or an HTTP date (RFC 9110, section 10.2.3).
        unit_s: what a number counts, seconds.
    """
    if not header:
        return None
    if header.strip().isdecimal():
        return int(header) * unit_s
    try:
        return max(0.0, float(urllib3.Retry().parse_retry_after(header)))
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class Deadline:
    """When an operation must have ended, and what it is."""

    #: In words, for the message.
    what: str
    total_s: float
    #: On the monotonic clock, seconds.
    ends: float

    @classmethod
    def after(cls, total_s: float, what: str) -> Deadline:
        """Return the deadline `total_s` seconds from now."""
        return cls(what, total_s, time.monotonic() + total_s)

    def left(self) -> float:
        """Return the seconds that are left, at least 0."""
        return max(0.0, self.ends - time.monotonic())

    def check(self) -> None:
        """Do nothing while there is time.

        Raises:
            SourceUnavailable: the time is over.
        """
        if self.left() <= 0:
            raise SourceUnavailable(
                f"{self.what} took longer than {self.total_s:g} seconds; ask for less, or allow more time (search_s)."
            )

    def sleep(self, seconds: float) -> None:
        """Wait, unless the time is over before.

        Raises:
            SourceUnavailable: the time is over.
        """
        if seconds > 0:
            time.sleep(min(seconds, self.left()))
        self.check()


class _RetryingAdapter(HTTPAdapter):
    """The transport of a `WebSession`."""

    def __init__(self, retry_policy: RetryPolicy, per_second: float, named: frozenset[str]) -> None:
        super().__init__(max_retries=0)
        self._retry_policy, self._rate, self._named = retry_policy, per_second, named
        # Where a proxy is asked, it connects, and these pools are not used.
        self.poolmanager.pool_classes_by_scheme = {
            "http": _pool(HTTPConnectionPool, named),
            "https": _pool(HTTPSConnectionPool, named),
        }
        self._deadline: Deadline | None = None

    @contextmanager
    def bounded(self, what: str) -> Iterator[None]:
        if self._deadline is not None:
            yield
            return
        self._deadline = Deadline.after(self._retry_policy.total_s, what)
        try:
            yield
        finally:
            self._deadline = None

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: ARG002 (bodies are always read here)
        timeout: Any = None,  # noqa: ARG002 (the retry policy says)
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
        check_address(url, self._named)
        _put_back(request, url)
        deadline = self._deadline or Deadline.after(self._retry_policy.total_s, _without_query(url))
        pace = pace_of(urlsplit(url).netloc, self._rate)

        def once() -> requests.Response:
            deadline.sleep(pace.reserve())
            wait = max(0.001, min(self._retry_policy.timeout_s, deadline.left()))
            try:
                answer = super(_RetryingAdapter, self).send(request, True, wait, verify, cert, dict(proxies or {}))
                _read_whole(answer, deadline)
            except requests.RequestException:
                deadline.check()  # the time may be over because it was all that was left
                raise
            if answer.status_code == requests.codes.too_many_requests:
                asked = retry_after_s(answer.headers.get("Retry-After"), self._retry_policy.retry_after_unit_s) or 0.0
                pace.pause(min(asked, self._retry_policy.longest_delay_s))
            return answer

        answer: requests.Response = self._retry_policy.attempts(deadline)(once)
        return answer


def _put_back(request: requests.PreparedRequest, url: str) -> None:
    """Give a request the login and the query that were taken off its address."""
    request.url = with_query(url)
    login = login_of(url)
    if login is not None and "Authorization" not in request.headers:
        request.prepare_auth(login, request.url)


class WebSession(requests.Session):
    """Asks servers, again after failures that may pass; follows redirections, but none into this network."""

    def __init__(
        self, retry_policy: RetryPolicy, per_second: float = DEFAULT_RATE, named: Collection[str] = frozenset()
    ) -> None:
        """Set how servers are waited for, and which are asked.

        Args:
            retry_policy: how long and how often a server is asked.
            per_second: requests a second that a host gets.
            named: hosts that the user named; all others must be on the internet, redirections included.
        """
        super().__init__()
        self._named = frozenset(named)
        self._transport = _RetryingAdapter(retry_policy, per_second, self._named)
        for scheme in ("http://", "https://"):
            self.mount(scheme, self._transport)

    def request(self, method: str, url: str | bytes, *args: Any, **options: Any) -> requests.Response:
        """Return the answer to a request, whatever its status.

        Raises:
            SourceUnavailable: there is none, also after retries.
            UnsafeHref: an address inside this network was to be asked.
        """
        try:
            return super().request(method, url, *args, **options)
        except requests.RequestException as error:
            # The library's own words may hold the query, so they are not chained.
            what = f"{_without_query(str(url))} does not answer ({type(error).__name__})"
            raise SourceUnavailable(f"{what}; check the address and try again later.") from None

    def bounded(self, what: str) -> AbstractContextManager[None]:
        """Bound everything sent while the context is open by `RetryPolicy.total_s`; the outermost context counts."""
        return self._transport.bounded(what)

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
