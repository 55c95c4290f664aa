"""Searches against servers that speak STAC and misbehave, and against answers of the real Earth Search."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pystac
import pytest

from stac.errors import InvalidQuery, SourceUnavailable, StacError, UnreadableCatalog, UnsafeHref
from stac.io.http import RetryPolicy
from stac.search.api import ApiSource
from stac.search.opening import open_source
from stac.search.providers import PROVIDERS
from stac.search.source import Query, Source
from tests.misbehaving_server import Asked, Reply, StacApi, Trouble, files, web_server

pytestmark = pytest.mark.integration
RECORDED = Path(__file__).parents[1] / "data/earth-search-items"
DECADE = Query.parse("sentinel-2-l2a", None, "2016-01-01/2025-12-31")
#: Real pauses are too long for a test; their number and order stay.
QUICK = RetryPolicy(timeout_s=5, total_s=30, retries=3, first_delay_s=0.01, longest_delay_s=2)


#: Answers of Earth Search, in the order of their times.
NAMES = (
    "S2A_33TWN_20190707_1_L2A",
    "S2A_33TWN_20220122_0_L2A",
    "S2B_33TWN_20220130_0_L2A",
    "S2B_33TWN_20220226_0_L2A",
    "S2A_32TMS_20221207_0_L2A",
)


def recorded() -> list[dict[str, Any]]:
    return [json.loads((RECORDED / f"{name}.json").read_text()) for name in sorted(NAMES)]


def search(
    api: StacApi, query: Query = DECADE, retry_policy: RetryPolicy = QUICK, page: int = 100
) -> list[pystac.Item]:
    with web_server(api) as url:
        return ApiSource(url, retry_policy, page).search(query)


def test_every_recorded_item_is_one_scene() -> None:
    documents = [json.loads(path.read_text()) for path in sorted(RECORDED.glob("*.json"))]
    with web_server(StacApi(documents)) as url:
        source = ApiSource(url, QUICK, page=7)
        assert {item.id for item in source.search(DECADE)} == {document["id"] for document in documents}
    assert source.skipped == []


def test_a_static_catalog_is_not_an_api(tmp_path: Path) -> None:
    catalog = pystac.Catalog("plain", "A static catalog.")
    everywhere = pystac.Extent(pystac.SpatialExtent([[-180, -90, 180, 90]]), pystac.TemporalExtent([[None, None]]))
    catalog.add_child(pystac.Collection("sentinel-2-l2a", "Scenes.", everywhere))
    catalog.normalize_and_save(str(tmp_path), pystac.CatalogType.SELF_CONTAINED)
    with (
        web_server(files(tmp_path)) as url,
        pytest.raises(UnreadableCatalog, match="not a STAC API with item search"),
    ):
        ApiSource(f"{url}catalog.json", QUICK).search(DECADE)


def busy(status: int, after: str | None = None) -> Reply:
    return Reply(status, {"description": "busy"}, {} if after is None else {"Retry-After": after})


def test_recorded_items_come_through_whole() -> None:
    found = search(StacApi(recorded()), page=2)
    assert tuple(item.id for item in found) == NAMES
    for item in found:
        original = json.loads((RECORDED / f"{item.id}.json").read_text())
        assert {name: asset.href for name, asset in item.assets.items()} == {
            name: asset["href"] for name, asset in original["assets"].items()
        }
        assert item.geometry == original["geometry"] and item.bbox == original["bbox"]


@pytest.mark.parametrize(
    "troubles",
    [
        pytest.param([busy(429, "0")], id="429"),
        pytest.param([busy(429, "1")], id="429 that asks for a second"),
        pytest.param([busy(503), busy(502), busy(504)], id="a burst of 50x"),
        pytest.param([busy(408), busy(425)], id="408 and 425"),
        pytest.param([Reply(content={"features": []}, cut_at=3)], id="a body cut short"),
        pytest.param([Reply(status=200, content=b"", cut_at=0, headers={"Content-Length": "99"})], id="no body"),
    ],
)
def test_a_passing_failure_passes(troubles: list[Trouble]) -> None:
    api = StacApi(recorded(), troubles=list(troubles))
    assert len(search(api)) == 5
    assert len(api.searched) == len(troubles) + 1


def test_a_failure_in_the_middle_of_the_pages_loses_none() -> None:
    api = StacApi(recorded(), troubles=[None, busy(503), busy(429, "0"), None, busy(500)])
    assert len(search(api, page=2)) == 5
    assert [query.get("token", 0) for query in api.searched] == [0, 2, 2, 2, 4, 4]


def test_an_api_that_is_searched_with_get_only_is_searched() -> None:
    api = StacApi(recorded(), troubles=[None, busy(503)], get_only=True)
    north = Query.parse("sentinel-2-l2a", "14,46,16,48", "2016-01-01/2025-12-31")
    assert {item.id for item in search(api, north, page=3)} == {name for name in NAMES if "33TWN" in name}
    assert [query.get("token", "0") for query in api.searched] == ["0", "3", "3"]


@pytest.mark.parametrize("status", [429, 503])
def test_a_failure_that_stays_ends_after_the_attempts(status: int) -> None:
    api = StacApi(recorded(), troubles=[busy(status)] * 99)
    with pytest.raises(SourceUnavailable, match=f"{status}.*also after retries"):
        search(api)
    assert len(api.searched) == QUICK.retries + 1


def test_an_address_that_refuses_is_not_asked_again_and_one_that_is_silent_not_for_long() -> None:
    for reply, error, words, most in (
        *((Reply(status), UnreadableCatalog, f"{status}.*check the address", 1) for status in (401, 403, 404)),
        (Reply(503, headers={"Retry-After": "0"}), SourceUnavailable, "503 Service Unavailable", 2),
        (Reply(silence_s=1), SourceUnavailable, "does not answer", 2),
        (Reply(content=b"<html>"), UnreadableCatalog, "not valid JSON", 1),
    ):
        asked: list[Asked] = []
        with web_server(lambda each, a=asked, r=reply: a.append(each) or r) as url, pytest.raises(error, match=words):
            open_source(url, RetryPolicy(timeout_s=0.2, retries=1, first_delay_s=0.01))
        assert 1 <= len(asked) <= most


def test_a_page_that_is_not_json_or_of_half_the_world_is_an_error() -> None:
    with pytest.raises(UnreadableCatalog, match="not answer like a STAC API"):
        search(StacApi(recorded(), troubles=[Reply(content=b"<html>")]))
    with pytest.raises(InvalidQuery, match="narrow the box"):
        search(StacApi(recorded(), troubles=[lambda r: Reply(content=r.content | {"numberMatched": 2_000_000})]))


def test_a_remote_catalog_may_not_name_local_files() -> None:
    link = {"rel": "child", "href": "file:///etc/passwd"}
    catalog = {"type": "Catalog", "id": "x", "stac_version": "1.0.0", "description": "x", "links": [link]}
    with web_server(lambda _: Reply(content=catalog)) as url, pytest.raises(UnsafeHref, match="not name local files"):
        open_source(f"{url}catalog.json").collections()


@pytest.mark.parametrize(
    "after", ["3600", format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)], ids=["seconds", "date"]
)
def test_a_server_that_wants_an_hour_is_given_up_at_once(after: str) -> None:
    api = StacApi(recorded(), troubles=[busy(429, after)])
    with pytest.raises(SourceUnavailable, match="429"):
        search(api)
    assert len(api.searched) == 1


@pytest.mark.parametrize("after", ["soon", "Wed, 21 Oct 2015 07:28:00 GMT", "-5"])
def test_a_senseless_retry_after_is_not_an_obstacle(after: str) -> None:
    assert len(search(StacApi(recorded(), troubles=[busy(429, after)]))) == 5


def test_a_search_that_takes_too_long_ends_with_its_name() -> None:
    api = StacApi(recorded(), troubles=[Reply(silence_s=0.3, status=503)] * 99)
    with pytest.raises(SourceUnavailable, match=r"Searching http.* took longer|503"):
        search(api, retry_policy=RetryPolicy(timeout_s=5, total_s=0.8, retries=50, first_delay_s=0.01))
    assert len(api.searched) < 5


def test_a_server_that_drips_bytes_runs_out_of_time() -> None:
    api = StacApi(recorded(), troubles=[Reply(content=b" " * 1000, drip_s=0.05)])
    with pytest.raises(SourceUnavailable, match="took longer than 0"):
        search(api, retry_policy=RetryPolicy(timeout_s=5, total_s=0.5, retries=0))


def _miscounted(reply: Reply) -> Reply:
    return Reply(content={**reply.content, "numberMatched": 7})


def _twice(reply: Reply) -> Reply:
    return Reply(content={**reply.content, "features": reply.content["features"] * 2})


def _circling(reply: Reply) -> Reply:
    again = [{**link, "body": {**link["body"], "token": 0}} for link in reply.content["links"]]
    return Reply(content={**reply.content, "links": again})


@pytest.mark.parametrize(
    ("change", "reason"), [(_miscounted, "counts 7 matching items but sent 5"), (_circling, "page after page")]
)
def test_pages_that_do_not_add_up_are_an_error(change: Callable[[Reply], Reply], reason: str) -> None:
    with pytest.raises(SourceUnavailable, match=reason):
        search(StacApi(recorded(), troubles=[change] * 99), page=5 if change is _miscounted else 2)


def _overlapping(reply: Reply) -> Reply:
    """Every page begins with an item of the first, and none says how many there are."""
    features = [recorded()[0], *reply.content["features"]]
    return Reply(content={k: v for k, v in reply.content.items() if k != "numberMatched"} | {"features": features})


def test_pages_that_overlap_are_put_together_and_it_is_reported() -> None:
    with web_server(StacApi(recorded(), troubles=[_overlapping] * 99)) as url:
        source = ApiSource(url, QUICK, 2)
        assert {item.id for item in source.search(DECADE)} == set(NAMES)
    assert [(each.item_id, each.superseded_by) for each in source.skipped] == [(recorded()[0]["id"],) * 2]
    assert "was sent 4 times" in source.skipped[0].reason


def test_an_item_sent_twice_is_used_once_where_the_count_agrees() -> None:
    assert len(search(StacApi(recorded(), troubles=[_twice]))) == 5


@pytest.fixture
def reprocessed() -> list[dict[str, Any]]:
    """The real item of 2022-01-22, and the same scene of Collection 1 as the archive names it."""
    old = json.loads((RECORDED / "S2A_33TWN_20220122_0_L2A.json").read_text())
    new = json.loads(json.dumps(old))
    new["id"] = "S2A_33TWN_20220122_1_L2A"
    new["properties"] |= {
        "s2:processing_baseline": "05.00",
        "s2:generation_time": "2023-03-12T10:00:00Z",
        "datetime": "2022-01-22T09:57:36.930000Z",
    }
    return [old, new]


def test_the_newest_processing_of_a_scene_wins(reprocessed: list[dict[str, Any]]) -> None:
    with web_server(StacApi(reprocessed)) as url:
        source = ApiSource(url, QUICK)
        found = source.search(DECADE)
    assert [item.id for item in found] == ["S2A_33TWN_20220122_1_L2A"]
    [skipped] = source.skipped
    assert (skipped.item_id, skipped.superseded_by) == ("S2A_33TWN_20220122_0_L2A", found[0].id)
    assert skipped.reason == (
        "Item S2A_33TWN_20220122_0_L2A is an older version of S2A_33TWN_20220122_1_L2A "
        "(baseline 03.01, generated 2022-01-22T12:57:01+00:00); it is not used."
    )


def test_useless_items_are_skipped_with_their_reason() -> None:
    items = recorded()[:4]
    items[0]["assets"] = {}
    items[1]["geometry"] = None
    items[2]["assets"]["blue"]["href"] = "file:///etc/passwd"
    with web_server(StacApi(items)) as url:
        source = ApiSource(url, QUICK)
        assert [item.id for item in source.search(DECADE)] == [items[3]["id"]]
    assert [skipped.reason.split(",")[0] for skipped in source.skipped[:2]] == [
        f"Item {items[0]['id']} has no assets",
        f"Item {items[1]['id']} has no geometry",
    ]
    assert "may not name local files" in source.skipped[2].reason


# Chukotka, MGRS 01WCQ: the outline of a real scene, as archives write it.
WEST_PART = [[180, 66.99], [179.48, 66.59], [178.49, 66.57], [178.3, 67.55], [180, 67.58], [180, 66.99]]
EAST_PART = [[-180, 66.99], [-180, 67.58], [-179.19, 67.6], [-180, 66.99]]
ROUND = [[-179.19, 67.6], [178.3, 67.55], [178.49, 66.57], [179.48, 66.59], [-179.19, 67.6]]
BEYOND = [[180.81, 67.6], [178.3, 67.55], [178.49, 66.57], [179.48, 66.59], [180.81, 67.6]]
WRITTEN = {
    "in parts": {"type": "MultiPolygon", "coordinates": [[WEST_PART], [EAST_PART]]},
    "round the world": {"type": "Polygon", "coordinates": [ROUND]},
    "beyond 180": {"type": "Polygon", "coordinates": [BEYOND]},
}


def across(name: str, geometry: dict[str, Any]) -> dict[str, Any]:
    item = recorded()[0]
    return {**item, "id": name, "geometry": geometry, "bbox": [-180, 66.57, 180, 67.6]}


@pytest.fixture(params=WRITTEN)
def chukotka(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    """A static catalog with a scene across the antimeridian, and one at Greenwich on the same latitude."""
    greenwich = {"type": "Polygon", "coordinates": [[[0, 66.6], [2, 66.6], [2, 67.5], [0, 66.6]]]}
    items = [across("chukotka", WRITTEN[request.param]), across("greenwich", greenwich)]
    collection = {**StacApi(items)(Asked("GET", "/collections", {}, {}, b"", "")).content}
    collection["links"] = [{"rel": "item", "href": f"./{item['id']}.json"} for item in items]
    (tmp_path / "catalog.json").write_text(json.dumps(collection))
    for item in items:
        (tmp_path / f"{item['id']}.json").write_text(json.dumps(item))
    yield open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ("179,66,-179.5,68", ["chukotka"]),
        ("178,66,179.9,68", ["chukotka"]),
        ("-180,66,-179.5,68", ["chukotka"]),
        ("-1,66,3,68", ["greenwich"]),
        ("-100,66,-90,68", []),
        ("179,66,1,68", ["chukotka", "greenwich"]),
    ],
)
def test_a_scene_across_the_antimeridian_is_where_it_is(chukotka: Source, box: str, expected: list[str]) -> None:
    if box == "179,66,1,68":
        with pytest.raises(StacError, match="swap west and east"):
            Query.parse("sentinel-2-l2a", box, "2016-01-01/2025-12-31")
        return
    found = chukotka.search(Query.parse("sentinel-2-l2a", box, "2016-01-01/2025-12-31"))
    assert [item.id for item in found] == expected
    for item in found:
        longitudes = [point[0] for part in item.geometry["coordinates"] for ring in part for point in _points(ring)]
        assert all(-180 <= longitude <= 180 for longitude in longitudes)


def _points(ring: Any) -> list[Any]:
    return list(ring) if isinstance(ring[0], list | tuple) else [ring]


def test_a_band_round_the_world_stays_one() -> None:
    ring = [[-180, 66], [180, 66], [180, 68], [-180, 68], [-180, 66]]
    [found] = search(StacApi([across("band", {"type": "Polygon", "coordinates": [ring]})]))
    assert found.geometry == {"type": "Polygon", "coordinates": [ring]}, "its own grid says where it is"


def test_a_footprint_that_crosses_itself_is_not_an_obstacle() -> None:
    bow = {"type": "Polygon", "coordinates": [[[10, 46], [11, 47], [11, 46], [10, 47], [10, 46]]]}
    items = [across("bow", bow), across("tie", bow)]
    assert [item.id for item in search(StacApi(items))] == ["tie"], "the same scene twice"


def test_an_api_is_asked_on_both_sides_and_gives_the_scene_once() -> None:
    api = StacApi([across("chukotka", WRITTEN["in parts"])])
    found = search(api, Query.parse("sentinel-2-l2a", "179,66,-179.5,68", "2016-01-01/2025-12-31"))
    assert [item.id for item in found] == ["chukotka"]
    assert [query["bbox"] for query in api.searched] == [[179, 66, 180, 68], [-180, 66, -179.5, 68]]


def test_band_names_of_a_provider_become_ours() -> None:
    item = recorded()[0]
    copernicus = {"B02_60m": "blue", "B02_10m": "blue", "B08_10m": "nir", "SCL_20m": "scl"}
    item["assets"] = {key: {"href": f"s3://eodata/{key}.jp2"} for key in copernicus}
    with web_server(StacApi([item])) as url:
        [found] = ApiSource(url, QUICK, provider=PROVIDERS["copernicus"]).search(DECADE)
    assert {name: found.assets[name].href for name in ("blue", "nir", "scl")} == {
        "blue": "s3://eodata/B02_10m.jp2",
        "nir": "s3://eodata/B08_10m.jp2",
        "scl": "s3://eodata/SCL_20m.jp2",
    }
