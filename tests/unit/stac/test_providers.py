from __future__ import annotations

from urllib.parse import urlsplit

import pystac
import pytest

from flows.settings import RunSettings
from stac.grid.assets import find_asset
from stac.search.providers import PROVIDERS, Archive, Protocol, provider_of
from stac.search.source import with_band_names


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_provider_is_known_by_its_word_and_its_address(name: str) -> None:
    provider = PROVIDERS[name]
    assert provider_of(name) is provider_of(f" {name} ") is provider
    assert provider_of(provider.url) is provider_of(provider.url + "/") is provider
    assert urlsplit(provider.url).scheme == "https" and provider.archives and provider.requests_per_s > 0
    assert bool(provider.token_url) == (provider.protocol is Protocol.SENTINEL_HUB)


@pytest.mark.parametrize("location", ["", "sample", "./earth-search", "https://example.org/v1", "/data/catalog.json"])
def test_other_places_are_no_known_provider(location: str) -> None:
    assert provider_of(location) is None


def test_every_provider_is_named_where_sources_are_chosen() -> None:
    described = str(RunSettings.model_fields["source"].description)
    assert all(name in described for name in PROVIDERS)


def test_only_planetary_computer_signs() -> None:
    assert {name: p.signing for name, p in PROVIDERS.items() if p.signing} == {
        "planetary-computer": "planetary-computer"
    }


def item(*keys: str) -> pystac.Item:
    document = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "x",
        "geometry": {"type": "Point", "coordinates": [0, 0]},
        "bbox": [0, 0, 0, 0],
        "properties": {"datetime": "2023-08-15T10:00:00Z"},
        "links": [],
        "assets": {key: {"href": f"https://example.org/{key}.tif"} for key in keys},
    }
    return pystac.Item.from_dict(document)


@pytest.mark.parametrize(
    ("provider", "collection", "keys", "expected"),
    [
        (
            "planetary-computer",
            "sentinel-2-l2a",
            ["B02", "B08", "B8A", "SCL"],
            {"blue": "B02", "nir": "B08", "scl": "SCL"},
        ),
        ("copernicus", "sentinel-2-l2a", ["B02_60m", "B02_10m", "SCL_20m"], {"blue": "B02_10m", "scl": "SCL_20m"}),
        ("earth-search", "landsat-c2-l2", ["blue", "nir08", "qa_pixel"], {"nir": "nir08", "qa_pixel": "qa_pixel"}),
        ("earth-search", "sentinel-2-l2a", ["blue", "nir", "nir08"], {"nir": "nir", "nir08": "nir08"}),
    ],
)
def test_bands_are_found_under_our_names(
    provider: str, collection: str, keys: list[str], expected: dict[str, str]
) -> None:
    named = with_band_names(item(*keys), PROVIDERS[provider].archive(collection))
    assert {band: find_asset(named, band).href for band in expected} == {
        band: f"https://example.org/{key}.tif" for band, key in expected.items()
    }
    assert len(named.assets) == len(keys), "no asset is lost or doubled"


def test_an_unknown_collection_has_no_peculiarities() -> None:
    assert PROVIDERS["earth-search"].archive("naip") == Archive("naip")
