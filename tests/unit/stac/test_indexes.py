"""What an index is given, and when it holds something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stac.catalog.indexes.base import open_index
from stac.catalog.indexes.following import copy_of, public_base
from stac.errors import IndexNotUpdated, IndexRefused, IndexUnavailable, InvalidQuery
from stac.io.http import RetryPolicy
from stac.io.s3 import parse_location
from tests.misbehaving_server import Document, Reply, TransactionApi, web_server

QUICK = RetryPolicy(timeout_s=5, total_s=20, retries=2, first_delay_s=0.01)
COLLECTION: Document = {"type": "Collection", "id": "c", "title": "C", "links": []}


def item() -> Document:
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": "a",
        "collection": "c",
        "geometry": {"type": "Point", "coordinates": [15.1234567, 46.5]},
        "bbox": [15.1234567, 46.5, 15.1234567, 46.5],
        "properties": {"datetime": "2023-08-18T10:05:59.024Z", "unveil:work_id": "w-a", "gone": None},
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


def with_properties(**changes: Any) -> Callable[[Document], Document]:
    return lambda d: d | {"properties": d["properties"] | changes}


def with_asset(**changes: Any) -> Callable[[Document], Document]:
    return lambda d: d | {"assets": {"data": d["assets"]["data"] | changes}}


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (lambda _: None, "accepted item a but does not have it"),
        (lambda d: d | {"properties": {"datetime": None}}, r"accepted item a but changed it \(properties.datetime\)"),
        (with_properties(datetime="2023-08-18T10:06:00Z"), r"\(properties.datetime\)"),
        (with_properties(**{"unveil:work_id": None}), r"\(properties.unveil:work_id\)"),
        (with_asset(bands=[{"name": "red", "nodata": 1}]), r"\(assets.data.bands\[0\].nodata\)"),
        (lambda d: d | {"assets": {}}, r"changed it \(assets.data.href\)"),
        (lambda d: d | {"bbox": d["bbox"][:3]}, r"\(bbox\)"),
        (lambda d: d | {"links": d["links"][:-1]}, r"\(link derived_from"),
    ],
)
def test_an_api_that_drops_or_changes_items_is_found_out(keep: Any, message: str) -> None:
    with web_server(TransactionApi(keep=keep)) as url, pytest.raises(IndexNotUpdated, match=message):
        open_index(url, QUICK).put(COLLECTION, [item()])


def test_what_services_do_to_items_is_not_a_difference() -> None:
    def as_services_do(sent: Document) -> Document:
        found = with_properties(datetime="2023-08-18T10:05:59.024000+00:00", more=1)(sent)
        place = {"type": "Point", "coordinates": [15.1234567 + 1e-12, 46.5]}
        return found | {"geometry": place, "links": [*sent["links"][3:], {"rel": "self", "href": "https://api/a"}]}

    with web_server(TransactionApi(keep=as_services_do)) as url:
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
