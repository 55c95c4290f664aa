"""Sentinel Hub through the real library, against a service on loopback that speaks its protocols."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from stac.errors import AccessRefused, InvalidItem, InvalidQuery, SourceUnavailable, UnreadableAsset, UnsafeHref
from stac.grid.cell import Cell, native_geobox
from stac.io.http import RetryPolicy
from stac.io.signing import Access
from stac.load.reading import AssetRequest, read_asset
from stac.load.stack import read_stack
from stac.search.opening import open_source
from stac.search.providers import PROVIDERS
from stac.search.sentinel_hub.client import METER
from stac.search.sentinel_hub.process import BandAddress, read_band
from stac.search.source import Query
from stac.search.static import sample_catalog
from tests.misbehaving_server import Reply
from tests.sentinel_hub_server import CLIENT_ID, CLIENT_SECRET, SentinelHub, sample_items, sentinel_hub, units_of

pytestmark = pytest.mark.integration
QUICK = RetryPolicy(timeout_s=5, total_s=20, retries=3, first_delay_s=0.01, longest_delay_s=2)
AUGUST = Query.parse("sentinel-2-l2a", None, "2023-08-01/2023-08-31")
PROVIDER = PROVIDERS["sentinel-hub"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SentinelHub]:
    service = SentinelHub()
    # The library writes a file of settings where none is; there must be no reason to.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SH_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("SH_CLIENT_SECRET", CLIENT_SECRET)
    with sentinel_hub(service) as url:
        monkeypatch.setenv("SH_BASE_URL", url)
        monkeypatch.setenv("SH_TOKEN_URL", f"{url}/oauth/token")
        yield service
    assert not (tmp_path / "config").exists()


def search(query: Query = AUGUST) -> list[pystac.Item]:
    return open_source("sentinel-hub", QUICK).search(query)


def test_the_catalog_is_searched_to_its_last_page(hub: SentinelHub) -> None:
    from stac.search.sentinel_hub.catalog import SentinelHubSource

    source = SentinelHubSource(PROVIDER, QUICK, page=3)
    assert source.collections() == ["sentinel-1-grd", "sentinel-2-l2a"]
    found = source.search(AUGUST)
    assert len(found) == len({item.id for item in found}) == 10 and source.skipped == []
    assert [query.get("next") for query in hub.searches] == [None, 3, 6, 9]
    assert {item.properties["grid:code"] for item in found} == {"MGRS-33TWL", "MGRS-33TWM"}
    assert native_geobox(found[0], "blue").shape == (10980, 10980)
    assert len(hub.tokens) == 1


def test_area_and_interval_are_kept(hub: SentinelHub) -> None:
    found = search(Query.parse("sentinel-2-l2a", "15.2,45.6,15.4,45.7", "2023-08-15"))
    assert len(found) == 1 and found[0].datetime is not None
    assert found[0].datetime.date().isoformat() == "2023-08-15" and "33TWL" in found[0].id


def test_a_box_across_the_antimeridian_is_asked_in_two_parts(hub: SentinelHub) -> None:
    assert search(Query.parse("sentinel-2-l2a", "179,66,-179,68", "2023-08-15")) == []
    assert [query["bbox"] for query in hub.searches] == [[179, 66, 180, 68], [-180, 66, -179, 68]]


def cell(rows: int = 60, columns: int = 50) -> tuple[Cell, np.ndarray, str]:
    """A window at the edge of the swath, its real pixels, and the id of the item they are from."""
    name = next(name for name in sample_items() if "33TWL_20230818" in name)
    with rasterio.open(sample_catalog().parent / name / "B02.tif") as file:
        grid = GeoBox(file.shape, file.transform, file.crs.to_wkt())
        whole = file.read(1)
    empty = np.argwhere(whole == 0)
    row, column = np.clip(
        empty[len(empty) // 2] - (rows // 2, columns // 2), 0, np.array(whole.shape) - (rows, columns)
    )
    window = np.s_[row : row + rows, column : column + columns]
    return Cell("x", grid[window]), whole[window], name


def request(item: pystac.Item, band: str) -> AssetRequest:
    resampling = Resampling.nearest if band == "scl" else Resampling.bilinear
    return AssetRequest.of(item, band, item.assets[band], 0, resampling)


def scene(name: str) -> pystac.Item:
    product = sample_items()[name]["properties"]["s2:product_uri"].removesuffix(".SAFE")
    return next(item for item in search() if item.id == product)


def test_pixels_are_those_of_the_archive_and_nodata_stays_nodata(hub: SentinelHub) -> None:
    where, expected, name = cell()
    item = scene(name)
    assert 0 < (expected == 0).sum() < expected.size
    pixels = read_asset(request(item, "blue"), Access(timeout_s=5), where)
    assert pixels.dtype == np.uint16 and np.array_equal(pixels, expected)
    with rasterio.open(sample_catalog().parent / name / "SCL.tif") as file:
        left, top = (round(n) for n in ~file.transform @ (where.geobox.affine.c, where.geobox.affine.f))
        classes = file.read(1)[top : top + 60, left : left + 50]
    read = read_asset(request(item, "scl"), Access(timeout_s=5), where)
    assert read.dtype == np.uint8 and np.array_equal(read, classes)


def test_a_stack_through_the_service_equals_that_of_the_files(hub: SentinelHub) -> None:
    where, _, _ = cell()
    files = open_source(str(sample_catalog())).search(Query.parse("sentinel-2-l2a", None, "2023-08-15/2023-08-18"))
    own = [item for item in files if "33TWL" in item.id]
    billed = [scene(item.id) for item in own]
    expected, found = (read_stack(items, where, ("blue", "red", "nir")) for items in (own, billed))
    assert len(own) == 2 and np.array_equal(found.dn, expected.dn)
    assert np.array_equal(found.classes, expected.classes)


def test_processing_units_are_counted(hub: SentinelHub) -> None:
    where, _, name = cell()
    item = scene(name)
    spent = METER.spent
    read_asset(request(item, "blue"), Access(timeout_s=5), where)
    read_asset(request(item, "nir"), Access(timeout_s=5), where)
    assert METER.spent - spent == pytest.approx(2 * units_of(50, 60, 1))


def test_a_large_area_is_asked_in_parts(hub: SentinelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stac.search.sentinel_hub.process._LARGEST_SIDE", 32)
    where, expected, name = cell()
    assert np.array_equal(read_asset(request(scene(name), "blue"), Access(timeout_s=5), where), expected)
    assert [(r["output"]["width"], r["output"]["height"]) for r in hub.processed] == [
        (32, 32), (18, 32), (32, 28), (18, 28),
    ]  # fmt: skip


def test_a_token_that_ends_early_is_renewed_once(hub: SentinelHub) -> None:
    where, expected, name = cell()
    item = scene(name)
    hub.revoked.add(hub.tokens[-1])
    assert np.array_equal(read_asset(request(item, "blue"), Access(timeout_s=5), where), expected)
    assert len(hub.tokens) == 2


def test_a_token_is_renewed_before_it_ends(hub: SentinelHub) -> None:
    hub.expires_in = 30
    assert len(search()) == 10 and len(hub.tokens) > 1


def test_a_token_that_is_always_refused_is_a_clear_error(hub: SentinelHub) -> None:
    hub.revoked.update(f"token-{n}" for n in range(9))
    with pytest.raises(AccessRefused, match=r"401.*check what the account may do"):
        search()
    assert len(hub.tokens) == 2


def test_wrong_credentials_are_a_clear_error_and_stay_secret(
    hub: SentinelHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SH_CLIENT_SECRET", "not-the-secret")
    with pytest.raises(AccessRefused, match=r"401.*check SH_CLIENT_ID") as error:
        search()
    assert "not-the-secret" not in caplog.text + str(error.value) + repr(error.value.__context__)


def test_nothing_of_the_credentials_is_logged(hub: SentinelHub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    where, _, name = cell()
    read_asset(request(scene(name), "blue"), Access(timeout_s=5), where)
    assert "processing units" in caplog.text
    assert CLIENT_SECRET not in caplog.text and hub.tokens[0] not in caplog.text


@pytest.mark.parametrize("name", ["SH_CLIENT_ID", "SH_CLIENT_SECRET"])
def test_missing_credentials_are_named(hub: SentinelHub, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    with pytest.raises(AccessRefused, match=f"set {name} in the environment"):
        search()


def test_credentials_are_not_sent_unencrypted(hub: SentinelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SH_TOKEN_URL", "http://tokens.example.com/token")
    with pytest.raises(AccessRefused, match="not https"):
        search()


def test_passing_failures_pass(hub: SentinelHub) -> None:
    hub.token_troubles = [Reply(503), Reply(429, headers={"Retry-After": "20"})]
    hub.search_troubles = [Reply(429, headers={"Retry-After": "50"}), Reply(502), Reply(content={"a": 1}, cut_at=2)]
    where, expected, name = cell()
    item = scene(name)
    hub.process_troubles = [Reply(429, headers={"Retry-After": "50"}), Reply(500), Reply(408)]
    assert np.array_equal(read_asset(request(item, "blue"), Access(timeout_s=5), where), expected)


def test_retry_after_counts_milliseconds(hub: SentinelHub) -> None:
    hub.search_troubles = [Reply(429, headers={"Retry-After": "1900"})]
    assert len(search()) == 10, "1900 seconds would have been given up"


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (503, SourceUnavailable, "also after retries"),
        (403, AccessRefused, "quota"),
        (400, InvalidQuery, "no such band"),
    ],
)
def test_failures_that_stay_are_distinguished(
    hub: SentinelHub, status: int, kind: type[Exception], reason: str
) -> None:
    where, _, name = cell()
    item = scene(name)
    hub.process_troubles = [Reply(status, {"error": {"message": "no such band"}})] * 99
    with pytest.raises(kind, match=reason):
        read_asset(request(item, "blue"), Access(timeout_s=5), where)


@pytest.mark.parametrize("content", [b"", b"no tar", b"\0" * 10_240])
def test_an_answer_without_images_is_not_data(hub: SentinelHub, content: bytes) -> None:
    where, expected, name = cell()
    item = scene(name)
    hub.process_troubles = [Reply(content=content)]
    assert np.array_equal(read_asset(request(item, "blue"), Access(timeout_s=5), where), expected), "asked again"
    hub.process_troubles = [Reply(content=content)] * 99
    with pytest.raises(UnreadableAsset, match="no readable image"):
        read_asset(request(item, "blue"), Access(timeout_s=5), where)


def test_pages_in_a_circle_end(hub: SentinelHub) -> None:
    from stac.search.sentinel_hub.catalog import SentinelHubSource

    hub.circles = True
    with pytest.raises(SourceUnavailable, match="page after page"):
        SentinelHubSource(PROVIDER, QUICK, page=3).search(AUGUST)


def test_a_collection_that_cannot_be_read_is_refused(hub: SentinelHub) -> None:
    with pytest.raises(InvalidQuery, match="use sentinel-2-l2a"):
        search(Query.parse("sentinel-1-grd", None, "2023-08-15"))


def test_a_grid_the_service_does_not_have_is_refused(hub: SentinelHub) -> None:
    upside_down = GeoBox((4, 4), rasterio.Affine(10, 0, 500000, 0, 10, 5000000), "EPSG:32633")
    with pytest.raises(InvalidItem, match="north-up"):
        read_band(
            "sentinelhub://sentinel-hub/sentinel-2-l2a/B02?time=2023-08-15T10:00:00Z", upside_down, 0, 5, nearest=True
        )


@pytest.mark.parametrize(
    "href",
    [
        "sentinelhub://evil.example.com/sentinel-2-l2a/B02?time=2023-08-15T10:00:00Z",
        "sentinelhub://earth-search/sentinel-2-l2a/B02?time=2023-08-15T10:00:00Z",
        "sentinelhub://sentinel-hub/B02?time=2023-08-15T10:00:00Z",
        "sentinelhub://sentinel-hub/sentinel-2-l2a/B02?time=now",
        "sentinelhub://sentinel-hub/sentinel-2-l2a/B02",
    ],
)
def test_addresses_name_known_services_only(href: str) -> None:
    with pytest.raises(UnsafeHref):
        BandAddress.parse(href)
