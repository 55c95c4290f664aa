"""Where a Sentinel Hub is, and who asks it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from stac.access.addresses import host_of
from stac.errors import AccessRefused
from stac.sources.providers import Provider

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
