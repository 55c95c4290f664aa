"""Addresses of bands that exist only as an answer of the Process API."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from stac.errors import UnsafeHref
from stac.sources.providers import PROVIDERS, Protocol, Provider

#: Our own scheme; `stac.sources.hrefs` lets no catalog name it.
_SCHEME = "sentinelhub"


@dataclass(frozen=True, slots=True)
class BandAddress:
    """One band of one scene: `sentinelhub://PROVIDER/COLLECTION/BAND?time=INSTANT`."""

    #: Whose service; the host is taken from its record, so that a token is sent nowhere else.
    provider: Provider
    collection: str
    band: str
    #: Acquisition time in UTC.
    instant: datetime

    @property
    def href(self) -> str:
        """The address as text."""
        path = f"{quote(self.collection, safe='')}/{quote(self.band, safe='')}"
        time = self.instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
        return f"{_SCHEME}://{self.provider.name}/{path}?{urlencode({'time': time})}"

    @classmethod
    def parse(cls, href: str) -> BandAddress:
        """Read an address.

        Raises:
            UnsafeHref: it is none, or names no Sentinel Hub that is known.
        """
        parts = urlsplit(href)
        provider = PROVIDERS.get(parts.netloc)
        steps = parts.path.strip("/").split("/")
        times = parse_qs(parts.query).get("time", [])
        if provider is None or provider.protocol is not Protocol.SENTINEL_HUB or len(steps) != 2 or len(times) != 1:
            raise UnsafeHref(f"{href!r} names no band of a Sentinel Hub.")
        try:
            return cls(provider, steps[0], steps[1], datetime.fromisoformat(times[0]))
        except ValueError as error:
            raise UnsafeHref(f"{href!r} names no acquisition time.") from error


def is_process_href(href: str) -> bool:
    """Tell whether an href is answered by the Process API instead of a file."""
    return href.startswith(f"{_SCHEME}://")
