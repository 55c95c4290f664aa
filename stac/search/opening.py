"""Where scenes come from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stac.errors import UnreadableCatalog
from stac.io.addresses import host_of, is_web
from stac.io.http import RetryPolicy
from stac.io.secrets import keep
from stac.io.signing import Access
from stac.search.api import ApiSource
from stac.search.providers import Protocol, Provider, provider_of
from stac.search.source import Source
from stac.search.static import SAMPLE, Documents, StaticSource, sample_catalog


def open_source(location: str, retry_policy: RetryPolicy | None = None, access: Access | None = None) -> Source:
    """Return the source at a path or URL: a STAC API where the document says so, else a static catalog.

    Args:
        location: `sample`, which ships; the name of a provider (`stac.search.providers`), the URL of an API's landing
            page, or the URL or path of a static catalog (root document or folder).
        retry_policy: how servers are waited for.
        access: where S3 is and as whom it is asked, for a static catalog at `s3://bucket/prefix`.

    Raises:
        UnreadableCatalog: there is no STAC catalog.
        SourceUnavailable: the source did not answer in time.
        AccessRefused: the provider wants credentials that are missing or wrong.
    """
    if not location.strip():
        raise UnreadableCatalog("The source is empty; give the URL of a STAC API or the path of a catalog.json.")
    retry_policy, location = retry_policy or RetryPolicy(), keep(location)
    if location == SAMPLE:
        location = str(sample_catalog())
    if provider := provider_of(location):
        return _known(provider, retry_policy, replace(access or Access(), hosts=frozenset()))
    access = access or Access()
    hosts = (access.hosts or frozenset()) | {host_of(location)}
    access = replace(access, hosts=hosts)
    if is_web(location) and _is_api(Documents(retry_policy, named=hosts).read(location)):
        return ApiSource(location, retry_policy, access=access)
    return StaticSource(location, retry_policy, access)


def _known(provider: Provider, retry_policy: RetryPolicy, access: Access) -> Source:
    if provider.protocol is Protocol.STAC_API:
        return ApiSource(provider.url, provider.retry_policy(retry_policy), provider=provider, access=access)
    # The library behind it takes a second to load.
    from stac.search.sentinel_hub.catalog import SentinelHubSource

    return SentinelHubSource(provider, retry_policy)


def _is_api(root: dict[str, Any]) -> bool:
    """Return whether a root document is the landing page of an API that can be searched."""
    links = root.get("links")
    rels = {link.get("rel") for link in links if isinstance(link, dict)} if isinstance(links, list) else set()
    return bool(root.get("conformsTo")) or "search" in rels
