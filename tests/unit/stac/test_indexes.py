"""What an index is given, and when it holds something else."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from stac.catalog.indexes.base import difference, index_label, index_secret, open_index
from stac.catalog.indexes.following import copy_of, public_base
from stac.errors import IndexNotUpdated, IndexRefused, IndexUnavailable, InvalidQuery
from stac.io.http import RetryPolicy
from stac.io.s3 import parse_location
from tests.misbehaving_server import Reply, web_server
from tests.transaction_api import TransactionApi

QUICK = RetryPolicy(timeout_s=5, total_s=20, retries=2, first_delay_s=0.01)
COLLECTION: dict[str, Any] = {"type": "Collection", "id": "c", "title": "C", "links": []}


def item(name: str = "a") -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": name,
        "collection": "c",
        "geometry": {"type": "Point", "coordinates": [15.1234567, 46.5]},
        "bbox": [15.1234567, 46.5, 15.1234567, 46.5],
        "properties": {"datetime": "2023-08-18T10:05:59.024Z", "unveil:work_id": f"w-{name}", "gone": None},
        "assets": {"data": {"href": "./data.tif", "file:size": 7, "bands": [{"name": "red", "nodata": 0}]}},
        "links": [
            {"rel": "self", "href": "./a.json"},
            {"rel": "parent", "href": "../collection.json"},
            {"rel": "item", "href": "./x.json"},
            {"rel": "derived_from", "href": "http://127.0.0.1:8000/scene"},
        ],
    }


@pytest.mark.parametrize(
    ("root", "address", "base"),
    [
        ("/data/out", "", "file:///data/out"),
        ("/data/out", "https://eo.example.org/mosaics/", "https://eo.example.org/mosaics"),
        ("s3://bucket/eo", "", "s3://bucket/eo"),
        ("s3://bucket", "https://eo.example.org", "https://eo.example.org"),
    ],
)
def test_a_copy_names_everything_by_its_public_address(root: str, address: str, base: str) -> None:
    found = copy_of(item(), f"{public_base(parse_location(root), address)}/c/a/a.json")
    links = {link["rel"]: link["href"] for link in found["links"]}
    assert found["assets"]["data"]["href"] == f"{base}/c/a/data.tif"
    assert links["self"] == links["canonical"] == f"{base}/c/a/a.json"
    assert links["parent"] == f"{base}/c/collection.json"
    assert links["derived_from"] == "http://127.0.0.1:8000/scene" and "item" not in links
    assert found["properties"] == item()["properties"]


def test_a_public_root_must_be_an_address() -> None:
    with pytest.raises(InvalidQuery, match="public_root"):
        public_base(Path("/out"), "eo.example.org")


def test_what_services_do_to_items_is_not_a_difference() -> None:
    found = deepcopy(item())
    found["properties"] = {"datetime": "2023-08-18T10:05:59.024000+00:00", "unveil:work_id": "w-a", "more": 1}
    found["geometry"]["coordinates"][0] += 1e-12
    found["links"] = [*found["links"][3:], {"rel": "self", "href": "https://api/collections/c/items/a"}]
    assert difference(item(), found) == ""


def test_what_is_lost_or_changed_is_named() -> None:
    def changed(change: Any) -> str:
        found = deepcopy(item())
        change(found)
        return difference(item(), found)

    assert changed(lambda d: d["properties"].pop("unveil:work_id")) == "properties.unveil:work_id"
    assert changed(lambda d: d["properties"].update(datetime="2023-08-18T10:06:00Z")) == "properties.datetime"
    assert changed(lambda d: d["assets"]["data"].update(href="x")) == "assets.data.href"
    assert changed(lambda d: d["assets"]["data"]["bands"][0].update(nodata=1)) == "assets.data.bands[0].nodata"
    assert changed(lambda d: d["assets"].clear()) == "assets.data.href"
    assert changed(lambda d: d["bbox"].pop()) == "bbox"
    assert changed(lambda d: d["links"].pop()).startswith("link derived_from")


def test_an_api_gets_items_replaces_them_and_lists_them() -> None:
    api = TransactionApi()
    with web_server(api) as url:
        index = open_index(url, QUICK)
        index.put(COLLECTION, [item("a"), item("b")])
        index.put(COLLECTION, [item("a") | {"bbox": [1, 2, 3, 4]}])
        assert index.works("c") == {"a": "w-a", "b": "w-b"} and index.works("none") == {}
        assert api.stored["/collections/c/items/a"]["bbox"] == [1, 2, 3, 4]
        index.remove("c", ["a", "never-there"])
        assert api.items() == ["b"]
        index.close()


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (lambda _: None, "accepted item a but does not have it"),
        (lambda d: d | {"properties": {"datetime": None}}, r"accepted item a but changed it \(properties.datetime\)"),
        (lambda d: d | {"assets": {}}, r"changed it \(assets.data.href\)"),
    ],
)
def test_an_api_that_drops_or_changes_items_is_found_out(keep: Any, message: str) -> None:
    with web_server(TransactionApi(keep=keep)) as url, pytest.raises(IndexNotUpdated, match=message):
        open_index(url, QUICK).put(COLLECTION, [item()])


def test_passing_trouble_is_waited_out_and_lasting_trouble_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNVEIL_INDEX_TOKEN", "very-secret")
    api = TransactionApi(troubles=[Reply(503, headers={"Retry-After": "0"}), Reply(429)])
    with web_server(api) as url:
        index = open_index(url, QUICK)
        index.put(COLLECTION, [item()])
        assert api.items() == ["a"]
        assert {asked.headers["authorization"] for asked in api.asked} == {"Bearer very-secret"}
        api.troubles = [Reply(503)] * 9
        with pytest.raises(IndexUnavailable, match="answers 503") as unavailable:
            index.put(COLLECTION, [item()])
        api.troubles = [Reply(403)]
        with pytest.raises(IndexRefused, match="UNVEIL_INDEX_TOKEN") as denied:
            index.put(COLLECTION, [item()])
    assert "very-secret" not in f"{unavailable.value} {denied.value}"
    with pytest.raises(IndexUnavailable, match="does not answer"):
        open_index(url, QUICK)


def test_the_token_goes_to_no_other_server() -> None:
    def astray(asked: Any) -> Reply:
        links = [{"rel": "next", "href": "http://127.0.0.1:1/collections/c/items?token=2"}]
        return Reply(content={"conformsTo": [], "features": [item()], "links": links})

    with web_server(astray) as url, pytest.raises(IndexNotUpdated, match="another server"):
        open_index(url, QUICK).works("c")


@pytest.mark.parametrize("address", ["ftp://a/b", "eo.example.org", "https://user:pw@a/b", "https://a/b?token=pw"])
def test_an_address_that_is_not_an_index_is_refused_without_its_secret(address: str) -> None:
    with pytest.raises(InvalidQuery) as refused:
        open_index(address, QUICK)
    assert "pw" not in str(refused.value)


def test_a_label_has_no_secret() -> None:
    address = "postgresql://me:se%40cret@db.example.org:5432/stac?sslmode=require"
    assert index_label(address) == "postgresql://me@db.example.org:5432/stac"
    assert index_secret(address) == "se%40cret" and index_secret("postgresql://me@db/stac") == ""
