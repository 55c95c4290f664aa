"""How the bytes behind an href are reached: with a signature where its provider hands out tokens, from S3, as it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum, unique
from functools import lru_cache
from urllib.parse import quote, urlsplit

import requests

from stac.errors import AccessRefused, SourceUnavailable
from stac.io.addresses import host_of
from stac.io.http import PASSING, RetryPolicy, WebSession
from stac.io.s3 import S3Options
from stac.io.secrets import redact

#: So many time-outs long a token is asked for, waits and retries included.
_TIMEOUTS = 5
#: A token is renewed this long before it expires, or after nine tenths of a shorter life.
_MARGIN = timedelta(minutes=2)
_MARGIN_SHARE = 0.1
PLANETARY_COMPUTER_TOKENS = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
#: A token is sent to no other host.
_AZURE = (".blob.core.windows.net",)


@dataclass(frozen=True, slots=True)
class Token:
    """A token and how long it may be used."""

    value: str = field(repr=False)
    renew_at: datetime


class TokenService:
    """The tokens of one service, by collection."""

    def __init__(self, url: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._url, self._now = url.rstrip("/"), now
        self._tokens: dict[str, Token] = {}
        # Threads that want the same token wait for one request.
        self._lock = threading.Lock()

    def token(self, collection: str, timeout_s: float) -> Token:
        """Return a token that is good for some time yet.

        Raises:
            AccessRefused: the service does not know the collection or refuses.
            SourceUnavailable: the service does not answer in time, also after retries.
        """
        with self._lock:
            known = self._tokens.get(collection)
            if known is None or self._now() >= known.renew_at:
                known = self._tokens[collection] = self._fetch(collection, timeout_s)
            return known

    def forget(self, collection: str, value: str) -> None:
        """Drop a token that was refused, unless it has been renewed meanwhile."""
        with self._lock:
            known = self._tokens.get(collection)
            if known is not None and known.value == value:
                del self._tokens[collection]

    def _fetch(self, collection: str, timeout_s: float) -> Token:
        name = f"The token service {redact(self._url)} (collection {collection})"
        began = self._now()
        retry_policy = RetryPolicy(timeout_s, total_s=_TIMEOUTS * timeout_s)
        with WebSession(retry_policy, named={host_of(self._url)}) as session:
            answer = session.get(f"{self._url}/{quote(collection, safe='')}")
        if answer.status_code in PASSING:
            raise SourceUnavailable(f"{name} answers {answer.status_code}, also after retries; try again later.")
        if answer.status_code != requests.codes.ok:
            raise AccessRefused(f"{name} answers {answer.status_code}; check --collection and the signing settings.")
        return _parse(answer, name, began)


def _parse(answer: requests.Response, name: str, now: datetime) -> Token:
    try:
        document = answer.json()
        value = str(document["token"]).lstrip("?")
        expires = datetime.fromisoformat(str(document["msft:expiry"]))
        expires = expires if expires.tzinfo else expires.replace(tzinfo=UTC)
    except (ValueError, KeyError, TypeError):
        # The answer may hold the token, so it is neither shown nor chained.
        raise SourceUnavailable(f"{name} sends no token and expiry; check its address.") from None
    if not value or any(c.isspace() for c in value):
        raise SourceUnavailable(f"{name} sends no usable token; check its address.")
    return Token(value, expires - min(_MARGIN, _MARGIN_SHARE * (expires - now)))


@unique
class Signing(StrEnum):
    """How hrefs are signed."""

    NONE = "none"
    PLANETARY_COMPUTER = "planetary-computer"


@dataclass(frozen=True, slots=True)
class SigningOptions:
    """Who signs, and for which hosts. Holds no token."""

    kind: Signing = Signing.NONE
    #: Address of the token service, without the collection.
    token_url: str = PLANETARY_COMPUTER_TOKENS
    #: Hosts whose addresses are signed: whole names, or endings that begin with a dot.
    hosts: tuple[str, ...] = _AZURE


@dataclass(frozen=True, slots=True, repr=False)
class SignedHref:
    """An href as it is opened. Its text is a secret; what is shown is the plain href."""

    plain: str
    #: The address with its token; the plain one where nothing was signed.
    address: str
    collection: str = ""

    def __repr__(self) -> str:
        return f"SignedHref({self.plain!r})"

    @property
    def signed(self) -> bool:
        """Whether a token was added."""
        return self.address != self.plain


@dataclass(frozen=True, slots=True)
class Access:
    """Everything that reading an asset needs to know besides its href. Holds no secret."""

    s3: S3Options = field(default_factory=S3Options)
    signing: SigningOptions = field(default_factory=SigningOptions)
    #: Hosts that the user named, which may be inside this network; None where every href is the caller's own.
    hosts: frozenset[str] | None = None
    #: Longest wait for one request, seconds.
    timeout_s: float = 60.0


def sign(href: str, collection: str, access: Access) -> SignedHref:
    """Return an href as it is to be opened now.

    Args:
        href: absolute href of an asset.
        collection: id of the item's collection.
        access: who signs, and how long is waited.

    Raises:
        AccessRefused: the token service does not know the collection or refuses.
        SourceUnavailable: the token service does not answer in time, also after retries.
    """
    if access.signing.kind is Signing.NONE or not _wants_token(href, access.signing):
        return SignedHref(href, href)
    token = tokens_of(access.signing.token_url).token(collection, access.timeout_s)
    return SignedHref(href, f"{href}?{token.value}", collection)


def refused(signed: SignedHref, options: SigningOptions) -> None:
    """Forget the token of an href that was refused, so that the next reading asks for another."""
    if signed.signed:
        tokens_of(options.token_url).forget(signed.collection, signed.address.partition("?")[2])


@lru_cache(maxsize=8)
def tokens_of(token_url: str) -> TokenService:
    """Return the tokens of a service, shared by all threads of this process."""
    return TokenService(token_url)


def _wants_token(href: str, options: SigningOptions) -> bool:
    """Return whether an href is on a host of the archive and does not carry a signature already."""
    address = urlsplit(href)
    host = (address.hostname or "").lower()
    known = any(host.endswith(name) if name.startswith(".") else host == name for name in options.hosts)
    return address.scheme in ("http", "https") and known and not address.query
