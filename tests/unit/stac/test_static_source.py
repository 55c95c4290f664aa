from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stac.errors import InvalidQuery, UnreadableCatalog
from stac.search.opening import open_source
from stac.search.query import Query
from stac.search.static import SAMPLE_COLLECTION, StaticSource

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


def test_an_unreadable_item_is_named(catalog_copy: Path, whole_sample: Query) -> None:
    item_path(catalog_copy).write_text("{")
    source = open_source(str(catalog_copy))
    assert len(source.search(whole_sample)) == 9
    assert f"{BAD}.json is not valid JSON" in source.skipped[0].reason


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
