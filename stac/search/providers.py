"""The archives that are known by name: where they are, and what has to be known to use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum, unique
from types import MappingProxyType

from stac.io.http import DEFAULT_RATE, RetryPolicy


@unique
class Protocol(StrEnum):
    """What a provider's address speaks."""

    STAC_API = "stac-api"
    SENTINEL_HUB = "sentinel-hub"


@dataclass(frozen=True, slots=True)
class Archive:
    """A collection of a provider."""

    id: str
    #: Our band name -> the provider's asset key or band, where they differ.
    bands: Mapping[str, str] = field(default_factory=dict, hash=False)
    #: Whether reading its `s3://` hrefs is billed to the reader.
    requester_pays: bool = False


@dataclass(frozen=True, slots=True)
class Provider:
    """An archive's address and habits."""

    #: The word for `--source`.
    name: str
    title: str
    url: str
    archives: tuple[Archive, ...]
    protocol: Protocol = Protocol.STAC_API
    #: How hrefs must be signed when they are read, as a word of `stac.io.signing`; None: as they are.
    signing: str | None = None
    #: Host of the S3 service behind `s3://` hrefs where it is not Amazon's.
    s3_endpoint: str | None = None
    #: Where access tokens are issued (OAuth 2 client credentials), if the provider wants them.
    token_url: str | None = None
    #: Environment variables that must hold credentials; empty where anybody may read.
    credentials: tuple[str, ...] = ()
    requests_per_s: float = DEFAULT_RATE
    #: Unit of a number in `Retry-After`, seconds.
    retry_after_unit_s: float = 1.0

    def archive(self, collection: str) -> Archive:
        """Return what is known of a collection; an unknown one has no peculiarities."""
        return next((archive for archive in self.archives if archive.id == collection), Archive(collection))

    def retry_policy(self, retry_policy: RetryPolicy) -> RetryPolicy:
        """Return how this provider is waited for."""
        return replace(retry_policy, retry_after_unit_s=self.retry_after_unit_s)


def _bands(**names: str) -> Mapping[str, str]:
    return MappingProxyType(names)


#: Sentinel-2's band numbers by common name (STAC eo extension, "Common Band Names").
_S2_NUMBERS = {
    "coastal": "B01", "blue": "B02", "green": "B03", "red": "B04", "rededge1": "B05", "rededge2": "B06",
    "rededge3": "B07", "nir": "B08", "nir08": "B8A", "nir09": "B09", "swir16": "B11", "swir22": "B12",
}  # fmt: skip
#: The finest resolution each of them is delivered in, metres.
_S2_FINEST = {"coastal": 60, "blue": 10, "green": 10, "red": 10, "nir": 10, "nir09": 60}
_S2_BY_NUMBER = _bands(**_S2_NUMBERS, scl="SCL")
_S2_BY_RESOLUTION = _bands(
    **{name: f"{number}_{_S2_FINEST.get(name, 20)}m" for name, number in _S2_NUMBERS.items()}, scl="SCL_20m"
)
#: Landsat's near infrared is the narrow one; its users say "nir" all the same.
_LANDSAT = _bands(nir="nir08")

_OAUTH = ("SH_CLIENT_ID", "SH_CLIENT_SECRET")
_S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")

PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {
        provider.name: provider
        for provider in (
            Provider(
                "earth-search",
                "Earth Search v1 (Element 84)",
                "https://earth-search.aws.element84.com/v1",
                (
                    Archive("sentinel-2-l2a"),
                    Archive("sentinel-2-c1-l2a"),
                    Archive("landsat-c2-l2", _LANDSAT, requester_pays=True),
                ),
            ),
            Provider(
                "planetary-computer",
                "Planetary Computer (Microsoft)",
                "https://planetarycomputer.microsoft.com/api/stac/v1",
                (Archive("sentinel-2-l2a", _S2_BY_NUMBER), Archive("landsat-c2-l2", _LANDSAT)),
                signing="planetary-computer",
            ),
            Provider(
                "copernicus",
                "Copernicus Data Space Ecosystem",
                "https://stac.dataspace.copernicus.eu/v1",
                (Archive("sentinel-2-l2a", _S2_BY_RESOLUTION),),
                s3_endpoint="eodata.dataspace.copernicus.eu",
                credentials=_S3_KEYS,
                requests_per_s=4,
            ),
            Provider(
                "sentinel-hub",
                "Sentinel Hub (Planet)",
                "https://services.sentinel-hub.com",
                (Archive("sentinel-2-l2a", _S2_BY_NUMBER),),
                Protocol.SENTINEL_HUB,
                token_url="https://services.sentinel-hub.com/auth/realms/main/protocol/openid-connect/token",  # noqa: S106
                credentials=_OAUTH,
                requests_per_s=5,
                # https://docs.sentinel-hub.com/api/latest/api/overview/rate-limiting/
                retry_after_unit_s=0.001,
            ),
            Provider(
                "copernicus-sentinel-hub",
                "Sentinel Hub in the Copernicus Data Space Ecosystem",
                "https://sh.dataspace.copernicus.eu",
                (Archive("sentinel-2-l2a", _S2_BY_NUMBER),),
                Protocol.SENTINEL_HUB,
                token_url="https://identity.dataspace.copernicus.eu/auth/realms/CDSE/protocol/openid-connect/token",  # noqa: S106
                credentials=_OAUTH,
                requests_per_s=5,
                retry_after_unit_s=0.001,
            ),
        )
    }
)


def provider_of(location: str) -> Provider | None:
    """Return the provider that a `--source` word or a URL names, None where it is none of the known ones."""
    named = location.strip()
    if named in PROVIDERS:
        return PROVIDERS[named]
    address = named.rstrip("/").lower()
    return next((provider for provider in PROVIDERS.values() if address == provider.url), None)
