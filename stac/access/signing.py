"""Signing at read time: a short-lived token is added to an href when it is opened, and nowhere else.

Planetary Computer keeps its data in Azure blob containers that want a shared access signature. Its token service gives
one per collection, `GET {token_url}/{collection}` -> `{"msft:expiry": ..., "token": ...}`
(https://planetarycomputer.microsoft.com/docs/concepts/sas/).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique
from functools import lru_cache
from urllib.parse import urlsplit

from stac.access.tokens import TokenService

PLANETARY_COMPUTER_TOKENS = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
#: A token is sent to no other host.
_AZURE = (".blob.core.windows.net",)


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


def sign(href: str, collection: str, options: SigningOptions, timeout_s: float) -> SignedHref:
    """Return an href as it is to be opened now.

    Args:
        href: absolute href of an asset.
        collection: id of the item's collection.
        options: who signs.
        timeout_s: longest wait for one request, seconds.

    Raises:
        AccessRefused: the token service does not know the collection or refuses.
        SourceUnavailable: the token service does not answer in time, also after retries.
    """
    if options.kind is Signing.NONE or not _wants_token(href, options):
        return SignedHref(href, href)
    token = tokens_of(options.token_url).token(collection, timeout_s)
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
    """Tell whether an href is on a host of the archive and does not carry a signature already."""
    address = urlsplit(href)
    host = (address.hostname or "").lower()
    known = any(host.endswith(name) if name.startswith(".") else host == name for name in options.hosts)
    return address.scheme in ("http", "https") and known and not address.query
