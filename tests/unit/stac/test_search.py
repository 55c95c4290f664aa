"""Queries, providers, static catalogs, and which links and ids a catalog may name."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pystac
import pytest

from flows.settings import RunSettings
from stac.errors import InvalidQuery, UnreadableCatalog, UnsafeHref
from stac.grid.assets import find_asset
from stac.search.hrefs import checked_id, resolve
from stac.search.opening import open_source
from stac.search.providers import PROVIDERS, Protocol, provider_of
from stac.search.source import Query, with_band_names
from stac.search.static import SAMPLE_COLLECTION, StaticSource

DATES = "2023-08-10/2023-08-20"


@pytest.mark.parametrize(
    ("asked", "interval"),
    [
        (DATES, "2023-08-10T00:00:00Z/2023-08-21T00:00:00Z"),
        ("2023-08-15", "2023-08-15T00:00:00Z/2023-08-16T00:00:00Z"),
        ("2023-08-10T02:00:00+02:00/2023-08-10T12:00:00Z", "2023-08-10T00:00:00Z/2023-08-10T12:00:00Z"),
        ("0001-01-01/9999-12-31", "0001-01-01T00:00:00Z/9999-12-31T23:59:59Z"),
    ],
)
def test_dates_cover_their_whole_days_and_zones_are_converted(asked: str, interval: str) -> None:
    query = Query.parse("c", "15,45,16,46", asked)
    assert (query.bbox, query.interval) == ((15.0, 45.0, 16.0, 46.0), interval)
    if asked == DATES:
        wide = query.widened(400)
        assert (query.start - wide.start, wide.end - query.end) == (timedelta(days=400), timedelta(days=400))


def test_an_open_interval_ends_today() -> None:
    before = datetime.now(UTC).date()
    query = Query.parse("c", None, "2023-08-10/..")
    assert query.start == datetime(2023, 8, 10, tzinfo=UTC)
    assert before <= query.end.date() <= datetime.now(UTC).date() and query.contains(datetime.now(UTC))


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ((15, 45, 15, 46), "no area"),
        ((15, 46, 16, 46), "no area"),
        ((180, 45, -179, 46), "no area"),
        ((179, 45, -180, 46), "no area"),
        ((16, 45, 15, 46), "swap west and east"),
        ((15, 46, 16, 45), "no area"),
        ((-181, 45, 15, 46), "leaves the world"),
        ((15, 45, 16, 91), "leaves the world"),
        ((float("nan"), 45, 16, 46), "leaves the world"),
        ((15, 45, float("inf"), 46), "leaves the world"),
        ((15, 45, 16), "not four numbers"),
        ("15,45,16,north", "not four numbers"),
        ("", "not four numbers"),
    ],
)
def test_a_wrong_box_is_refused(bbox: object, reason: str) -> None:
    with pytest.raises(InvalidQuery, match=reason):
        Query.parse("c", bbox, DATES)  # type: ignore[arg-type]


def test_a_box_across_the_antimeridian_has_two_parts() -> None:
    across = Query.parse("c", "178,66,-179,68", DATES)
    assert across.boxes == ((178.0, 66.0, 180.0, 68.0), (-180.0, 66.0, -179.0, 68.0))
    assert Query.parse("c", "15,45,16,46", DATES).boxes == ((15.0, 45.0, 16.0, 46.0),)
    assert Query.parse("c", None, DATES).boxes == (None,)


@pytest.mark.parametrize(
    ("interval", "reason"),
    [
        ("2023-08-20/2023-08-10", "ends before it begins"),
        ("2023-08-10T00:00:00", "no time zone"),
        ("2023-02-30", "not understood"),
        ("yesterday", "not understood"),
        ("", "not understood"),
        ("../2023-08-10", "not understood"),
        ("2023-08-10/2023-08-11/2023-08-12", "not understood"),
    ],
)
def test_a_wrong_interval_is_refused(interval: str, reason: str) -> None:
    with pytest.raises(InvalidQuery, match=reason):
        Query.parse("c", None, interval)


def test_an_empty_collection_is_refused() -> None:
    with pytest.raises(InvalidQuery, match="collection is empty"):
        Query.parse(" ", None, DATES)


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


BAD = "S2B_33TWM_20230810_0_L2A"


def item_path(catalog: Path) -> Path:
    return catalog.parent / BAD / f"{BAD}.json"


def test_all_items_in_order_with_absolute_hrefs(catalog_copy: Path, whole_sample: Query) -> None:
    items = open_source(str(catalog_copy)).search(whole_sample)
    assert len(items) == 10
    assert [item.datetime for item in items] == sorted(item.datetime for item in items if item.datetime)
    assert items[0].assets["blue"].href == str(catalog_copy.parent / items[0].id / "B02.tif")


def test_a_folder_is_enough(catalog_copy: Path) -> None:
    assert open_source(str(catalog_copy.parent)).collections() == [SAMPLE_COLLECTION]


def test_area_and_interval_restrict(catalog_copy: Path) -> None:
    source = StaticSource(str(catalog_copy))
    only_north = Query.parse(SAMPLE_COLLECTION, (15.3, 46.3, 15.4, 46.4), "2023-08-10/2023-08-13")
    assert [item.id[:12] for item in source.search(only_north)] == ["S2B_33TWM_20", "S2B_33TWM_20"]
    assert source.search(Query.parse(SAMPLE_COLLECTION, (0, 0, 1, 1), "2023-08-10/2023-08-20")) == []


def test_an_unknown_collection_lists_what_exists(catalog_copy: Path) -> None:
    with pytest.raises(InvalidQuery, match=f"landsat.*{SAMPLE_COLLECTION}"):
        StaticSource(str(catalog_copy)).search(Query.parse("landsat", None, "2023-08-10"))


@pytest.mark.parametrize("text", ["{", "[]", '"text"', "", "[" * 100_000])
def test_an_unreadable_root_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "catalog.json"
    path.write_text(text)
    with pytest.raises(UnreadableCatalog, match=r"catalog\.json"):
        open_source(str(path))


def test_a_missing_catalog_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UnreadableCatalog, match=r"give the path of a catalog\.json"):
        open_source(str(tmp_path / "nothing.json"))
    with pytest.raises(UnreadableCatalog):
        open_source(" ")


def test_an_item_is_not_a_catalog(catalog_copy: Path) -> None:
    with pytest.raises(UnreadableCatalog, match="not a STAC catalog"):
        open_source(str(item_path(catalog_copy)))


def test_an_unreadable_collection_is_an_error(catalog_copy: Path, whole_sample: Query) -> None:
    (catalog_copy.parent / "collection.json").write_text('{"type": "Collection", ')
    with pytest.raises(UnreadableCatalog, match=r"collection\.json is not valid JSON"):
        open_source(str(catalog_copy)).search(whole_sample)


def _set(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update({key: value})


BREAKAGES: list[Callable[[dict[str, Any]], None]] = [
    _set("id", "evil\n"),
    _set("properties", None),
    _set("properties", {"datetime": "not a date"}),
    _set("properties", {"datetime": None}),
    _set("assets", {"blue": {"href": "/vsicurl/http://169.254.0.1/"}}),
    _set("assets", {"blue": {}}),
    _set("assets", []),
    _set("type", "Collection"),
    _set("geometry", {"type": "Polygon", "coordinates": "nowhere"}),
    _set("links", 3),
]


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_one_bad_item_does_not_hide_the_others(
    catalog_copy: Path, whole_sample: Query, edit: Callable[..., None], breakage: Callable[[dict[str, Any]], None]
) -> None:
    edit(item_path(catalog_copy), breakage)
    source = open_source(str(catalog_copy))
    assert len(source.search(whole_sample)) == 9
    assert len(source.skipped) == 1
    assert source.search(whole_sample) and len(source.skipped) == 1, "reasons of one search only"


def test_a_circle_of_catalogs_ends(tmp_path: Path) -> None:
    links = [{"rel": "child", "href": "./b.json"}, {"rel": "child", "href": "./a.json"}]
    for name in "ab":
        document = {"type": "Catalog", "id": name, "links": links}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    assert open_source(str(tmp_path / "a.json")).collections() == []


def test_items_of_sub_catalogs_are_found(catalog_copy: Path, whole_sample: Query, edit: Callable[..., None]) -> None:
    collection = catalog_copy.parent / "collection.json"
    items = [link for link in json.loads(collection.read_text())["links"] if link["rel"] == "item"]
    below = {"type": "Catalog", "id": "2023", "links": items}
    (catalog_copy.parent / "2023.json").write_text(json.dumps(below))
    edit(collection, _set("links", [{"rel": "child", "href": "./2023.json"}]))
    assert len(open_source(str(catalog_copy)).search(whole_sample)) == 10


REMOTE = "https://example.org/stac/items/a.json"
LOCAL = "/data/catalog/items/a.json"


@pytest.mark.parametrize(
    ("base", "href", "expected"),
    [
        (REMOTE, "./B02.tif", "https://example.org/stac/items/B02.tif"),
        (REMOTE, "/B02.tif", "https://example.org/B02.tif"),
        (REMOTE, "s3://bucket/B02.tif", "s3://bucket/B02.tif"),
        (LOCAL, "../B02.tif", "/data/catalog/B02.tif"),
        (LOCAL, "/elsewhere/B02.tif", "/elsewhere/B02.tif"),
        (LOCAL, "file:///else%20where/B02.tif", "/else where/B02.tif"),
        (LOCAL, "https://example.org/B02.tif", "https://example.org/B02.tif"),
    ],
)
def test_links_become_absolute(base: str, href: str, expected: str) -> None:
    assert resolve(base, href) == expected


@pytest.mark.parametrize(
    "href", ["file:///etc/passwd", "zip+file:///etc/a.zip!b.tif", "vrt:///etc/passwd", "NETCDF:/etc/a.nc", ""]
)
def test_a_remote_catalog_may_not_name_local_files(href: str) -> None:
    with pytest.raises(UnsafeHref):
        resolve(REMOTE, href)


@pytest.mark.parametrize("href", ["/vsizip//tmp/a.zip", "ftp://example.org/a", "gopher://x", None, 7, "a\x00b"])
def test_odd_links_of_a_local_catalog_are_refused(href: object) -> None:
    with pytest.raises(UnsafeHref):
        resolve(LOCAL, href)


INSIDE = [
    "http://169.254.169.254/latest/meta-data/",
    "http://localhost:8080/a.tif",
    "https://127.0.0.1/a.tif",
    "http://10.0.0.5/a.tif",
    "http://[::1]/a.tif",
    "http://metadata.google.internal/a",
]


@pytest.mark.parametrize("href", INSIDE)
def test_a_catalog_inside_this_network_may(href: str) -> None:
    assert resolve("http://192.168.1.7/catalog.json", href) == href
    assert resolve(LOCAL, href) == href


def test_a_virtual_path_of_a_remote_catalog_stays_on_its_server() -> None:
    assert resolve(REMOTE, "/vsizip//etc/passwd").startswith("https://example.org/")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x7f", 5, None, "x" * 256])
def test_what_is_not_an_id_is_refused(name: object) -> None:
    with pytest.raises(UnsafeHref):
        checked_id(name)


@pytest.mark.parametrize("name", ["S2B_33TWM_20230810_0_L2A", "../x", "a/b", "urn:eop:é 1", ".hidden", "-x"])
def test_ids_are_kept_as_they_are(name: str) -> None:
    assert checked_id(name) == name
