"""STAC-GeoParquet: what is written is read back by pyarrow, GeoPandas and stac-geoparquet, and follows the catalog."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import geopandas
import pystac
import pytest
from pyarrow import parquet
from shapely.geometry import shape
from stac_geoparquet.arrow import stac_table_to_items

from flows.processing.publishing import keep_mirrors
from flows.settings.loading import load_settings
from stac.catalog import geoparquet
from stac.catalog.check import check_catalog
from stac.catalog.geoparquet import MEDIA_TYPE, export_items, ids_in, keep_mirror
from stac.catalog.publish import DEFAULT_COLLECTION, StaticCatalog
from stac.catalog.tree import MIRRORS
from stac.errors import EmptySearch, InvalidItem, InvalidQuery
from stac.io.s3 import S3Location
from tests.command import unveil
from tests.s3_server import S3Server

pytestmark = pytest.mark.integration
#: Written with whole seconds, read with microseconds: the same instants.
_INSTANTS = ("datetime", "created", "updated")
PRODUCTS = (DEFAULT_COLLECTION,)


@pytest.fixture
def catalog(tiny_run: Any, tmp_path: Path) -> Path:
    root = tmp_path / "catalog"
    shutil.copytree(tiny_run.root, root, ignore=shutil.ignore_patterns(".unveil", ".staging", MIRRORS))
    return root


def documents(root: Path) -> dict[str, dict[str, Any]]:
    """Return the products; the model that made them is an item of another collection."""
    paths = [path for path in root.glob(f"{DEFAULT_COLLECTION}/*/*.json") if path.stem == path.parent.name]
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(paths)}


def with_instants(item: dict[str, Any]) -> dict[str, Any]:
    told = item["properties"]
    instants = {name: datetime.fromisoformat(told[name]) for name in _INSTANTS if told.get(name)}
    return {**item, "properties": {**told, **instants}}


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: without_nulls(member) for name, member in value.items()}
        return {name: member for name, member in kept.items() if member is not None and member != {}}
    return [without_nulls(member) for member in value] if isinstance(value, list) else value


def read_items(file: Path) -> Iterator[dict[str, Any]]:
    for item in stac_table_to_items(parquet.read_table(file)):
        yield {**without_nulls(item), "geometry": item["geometry"]}


def test_items_are_the_same_after_the_round_trip(catalog: Path, tmp_path: Path) -> None:
    file = tmp_path / "items.parquet"
    assert export_items(str(catalog), file, PRODUCTS, base="https://example.org/c") == 2
    found, published = {item["id"]: item for item in read_items(file)}, documents(catalog)
    assert sorted(found) == sorted(published) == ids_in(file)
    for name, item in published.items():
        address = f"https://example.org/c/{DEFAULT_COLLECTION}/{name}"
        for asset in item["assets"].values():
            asset["href"] = f"{address}/{asset['href'].removeprefix('./')}"
        back, expected = with_instants(found[name]), with_instants(without_nulls(item))
        links = back.pop("links")
        expected.pop("links")
        assert back == expected
        assert {"rel": "self", "href": f"{address}/{name}.json", "type": "application/json"} in links
        *sources, model = (link for link in item["links"] if link["rel"] == "derived_from")
        inside = model | {"href": f"https://example.org/c/{model['href'].removeprefix('../../')}"}
        assert [link for link in links if link["rel"] == "derived_from"] == [*sources, inside]


def test_geopandas_reads_footprints_and_times(catalog: Path, tmp_path: Path) -> None:
    file = tmp_path / "items.parquet"
    export_items(str(catalog), file, PRODUCTS)
    frame = geopandas.read_parquet(file).set_index("id")
    assert frame.crs.to_epsg() in (4326, None) or frame.crs.to_authority() == ("OGC", "CRS84")
    for name, item in documents(catalog).items():
        assert frame.geometry[name].equals(shape(item["geometry"]))
        assert frame["datetime"][name] == datetime.fromisoformat(item["properties"]["datetime"])
        assert frame["proj:code"][name] == item["properties"]["proj:code"]
        assert frame["assets"][name]["data"]["href"] == str(catalog / DEFAULT_COLLECTION / name / "data.tif")
        assert frame["collection"][name] == DEFAULT_COLLECTION


def many(root: Path, count: int, change: Callable[[int, dict[str, Any]], object] = lambda *_: None) -> None:
    """Link `count` copies of an item in place of the items; files are not copied."""
    collection = root / DEFAULT_COLLECTION / "collection.json"
    first = next(iter(documents(root).values()))
    links = []
    for number in range(count):
        name = f"item-{number:05}"
        item = json.loads(json.dumps(first)) | {"id": name}
        change(number, item)
        (collection.parent / name).mkdir()
        (collection.parent / name / f"{name}.json").write_text(json.dumps(item), encoding="utf-8")
        links.append({"rel": "item", "href": f"./{name}/{name}.json", "title": name})
    document = json.loads(collection.read_text("utf-8"))
    document["links"] = [link for link in document["links"] if link["rel"] not in ("item", "child")] + links
    collection.write_text(json.dumps(document), encoding="utf-8")


def test_many_items_become_row_groups_and_may_differ(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geoparquet, "_CHUNK", 20)

    def differ(number: int, item: dict[str, Any]) -> None:
        item["properties"]["gsd"] = 10 if number % 2 else 10.5
        if number > 30:
            item["properties"]["only:late"] = {"a": number, "empty": {}}

    many(catalog, 32, differ)
    file, read = tmp_path / "items.parquet", []
    assert export_items(str(catalog), file, PRODUCTS, progress=read.append) == 32
    assert read == list(range(1, 33))
    metadata = parquet.read_metadata(file)
    assert metadata.num_row_groups == 2 and b"geo" in metadata.metadata and b"stac-geoparquet" in metadata.metadata
    found = {item["id"]: item for item in read_items(file)}
    assert sorted(found) == [f"item-{number:05}" for number in range(32)]
    assert "only:late" not in found["item-00030"]["properties"]
    assert found["item-00031"]["properties"]["only:late"] == {"a": 31}
    assert (found["item-00001"]["properties"]["gsd"], found["item-00002"]["properties"]["gsd"]) == (10, 10.5)


def test_items_that_contradict_each_other_leave_the_old_file(catalog: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    file = folder / "items.parquet"
    export_items(str(catalog), file, PRODUCTS)
    before = file.read_bytes()
    many(catalog, 2, lambda number, item: item["properties"].update({"odd": number or {"a": 1}}))
    with pytest.raises(InvalidItem, match="do not fit into one table"):
        export_items(str(catalog), file, PRODUCTS)
    assert file.read_bytes() == before and list(folder.iterdir()) == [file]


def test_nothing_to_export_is_one_sentence(tmp_path: Path) -> None:
    root = {"type": "Catalog", "stac_version": "1.1.0", "id": "c", "description": "c", "links": []}
    (tmp_path / "catalog.json").write_text(json.dumps(root))
    with pytest.raises(EmptySearch, match="nothing to export"):
        export_items(str(tmp_path), tmp_path / "items.parquet")
    assert not (tmp_path / "items.parquet").exists()


def mirrors(root: Path) -> dict[str, Path]:
    """Return the files of the products by month."""
    return {path.stem: path for path in sorted(root.glob(f"{DEFAULT_COLLECTION}/{MIRRORS}/*.parquet"))}


def publish_copy(root: Path, day: str) -> str:
    """Publish a product once more, as of another day; return its id."""
    catalog, (name, document) = StaticCatalog(root), next(iter(documents(root).items()))
    staging, copied = catalog.staging("copy"), json.loads(json.dumps(document))
    shutil.copytree(root / DEFAULT_COLLECTION / name, staging, dirs_exist_ok=True)
    (staging / f"{name}.json").unlink()
    copied["id"] = name.replace(name.split("_")[2], day.replace("-", ""))
    copied["properties"] |= {"datetime": f"{day}T10:00:00Z", "unveil:work_id": f"copy-{day}"}
    catalog.publish(staging, pystac.Item.from_dict(copied))
    return str(copied["id"])


def test_a_mirror_of_a_month_follows_the_catalog(catalog: Path) -> None:
    collection = catalog / DEFAULT_COLLECTION / "collection.json"
    assert keep_mirror(StaticCatalog(catalog)) == ["2023-08"]
    asset = json.loads(collection.read_text("utf-8"))["assets"]["geoparquet-2023-08"]
    assert (asset["href"], asset["type"], asset["roles"]) == (
        "./_items/2023-08.parquet",
        MEDIA_TYPE,
        ["collection-mirror"],
    )
    august = mirrors(catalog)["2023-08"]
    item = next(read_items(august))
    assert item["assets"]["data"]["href"] == f"./{item['id']}/data.tif"
    before = august.stat()
    assert keep_mirror(StaticCatalog(catalog)) == [] and august.stat() == before
    late = publish_copy(catalog, "2023-09-02")
    assert keep_mirror(StaticCatalog(catalog)) == ["2023-09"] and august.stat() == before
    assert ids_in(mirrors(catalog)["2023-09"]) == [late]
    assert sorted(geopandas.read_parquet(august.parent)["id"]) == sorted(documents(catalog))
    keep_mirror(StaticCatalog(catalog, "unveil-models"))
    report = check_catalog(str(catalog))
    assert report.valid, report.problems


def test_a_product_made_again_is_in_the_mirror(catalog: Path) -> None:
    keep_mirror(StaticCatalog(catalog))
    day = "2023-08-21"
    name = publish_copy(catalog, day)
    assert keep_mirror(StaticCatalog(catalog)) == ["2023-08"]
    path = catalog / DEFAULT_COLLECTION / name / f"{name}.json"
    again = json.loads(path.read_text("utf-8"))
    staging = StaticCatalog(catalog).staging("again")
    shutil.copytree(path.parent, staging, dirs_exist_ok=True)
    (staging / path.name).unlink()
    again["properties"]["unveil:work_id"] = "again"
    StaticCatalog(catalog).publish(staging, pystac.Item.from_dict(again))
    assert keep_mirror(StaticCatalog(catalog)) == ["2023-08"], "same id, other work"
    found = {item["id"]: item["properties"]["unveil:work_id"] for item in read_items(mirrors(catalog)["2023-08"])}
    assert found[name] == "again"


def test_an_older_file_put_in_place_by_another_run_is_replaced(catalog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs write a month at the same time, and the one that looked earlier puts its file in place later."""
    keep_mirror(StaticCatalog(catalog))
    (august,) = mirrors(catalog).values()
    older, late = august.read_bytes(), publish_copy(catalog, "2023-08-25")
    kind = type(StaticCatalog(catalog).target)
    place = kind.place

    def late_place(self: Any, name: str, file: Path) -> None:
        place(self, name, file)
        august.write_bytes(older)

    with monkeypatch.context() as patched:
        patched.setattr(kind, "place", late_place)
        keep_mirror(StaticCatalog(catalog))
    assert late not in ids_in(august)
    assert keep_mirror(StaticCatalog(catalog)) == ["2023-08"] and late in ids_in(august)
    assert keep_mirror(StaticCatalog(catalog)) == []


def test_a_retracted_item_leaves_the_mirror(catalog: Path, tmp_path: Path) -> None:
    first, second = documents(catalog)
    publish_copy(catalog, "2023-09-02")
    keep_mirrors(load_settings(overrides={"out": str(catalog)}))
    assert sorted(mirrors(catalog)) == ["2023-08", "2023-09"]
    assert unveil("retract", first, "--out", catalog, home=tmp_path / "home").status == 0
    assert ids_in(mirrors(catalog)["2023-08"]) == [second]
    StaticCatalog(catalog).withdraw(second)
    assert keep_mirror(StaticCatalog(catalog)) == [] and list(mirrors(catalog)) == ["2023-09"]
    keep_mirror(StaticCatalog(catalog, "unveil-models"))
    report = check_catalog(str(catalog))
    assert report.valid, report.problems
    for name in documents(catalog):
        StaticCatalog(catalog).withdraw(name)
    assert keep_mirror(StaticCatalog(catalog)) == [] and not (catalog / DEFAULT_COLLECTION).exists()


def test_no_mirror_where_none_is_wanted(catalog: Path) -> None:
    keep_mirrors(load_settings(overrides={"out": str(catalog), "geoparquet": False}))
    assert not list(catalog.rglob("*.parquet"))


def test_a_mirror_in_a_bucket(catalog: Path, s3: S3Server, tmp_path: Path) -> None:
    root = S3Location(s3.bucket("mirrors"), "eo")
    s3.upload(catalog, root.bucket, root.key)
    published = StaticCatalog(root, s3=s3.options, workspace=tmp_path / "state")
    assert keep_mirror(published) == ["2023-08"] and keep_mirror(published) == []
    copy = tmp_path / "copy.parquet"
    copy.write_bytes(s3.keys("mirrors")[f"eo/{DEFAULT_COLLECTION}/{MIRRORS}/2023-08.parquet"])
    assert ids_in(copy) == sorted(documents(catalog))
    assert next(read_items(copy))["assets"]["visual"]["href"].startswith("./")
    assert not list((tmp_path / "state").rglob("*.parquet"))
    for name in documents(catalog):
        published.withdraw(name)
    assert not [key for key in s3.keys("mirrors") if DEFAULT_COLLECTION in key.split("/")]


def test_the_command_exports_a_collection(catalog: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "items.parquet"
    older = next(catalog.glob(f"{DEFAULT_COLLECTION}/*/*-unveil-*.json"))
    older.write_text(
        older.read_text("utf-8").replace('"properties": {', '"properties": {"deprecated": true,', 1), "utf-8"
    )
    options = ("--geoparquet", file, "--collection", DEFAULT_COLLECTION, "--out", catalog, "--json")
    done = unveil("catalog", "export", *options, home=tmp_path / "home")
    assert "Warning" not in done.err, done.err
    assert done.status == 0 and done.document["items"] == 2 and done.document["bytes"] == file.stat().st_size
    with pytest.raises(InvalidQuery, match=f"it has .*{DEFAULT_COLLECTION}"):
        export_items(str(catalog), file, ["none"])
