"""The tree above the items: full nodes, catalogs of other tools, and clocks that went backwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pystac
import pytest

from stac.catalog.geoparquet import keep_mirror
from stac.catalog.publish import StaticCatalog
from stac.catalog.tree import node_of
from stac.errors import InvalidProduct
from tests.command import ROOT, environment
from tests.support.catalogs import problems_in

NAME = "S2B_33TWM_20230810_0_L2A-unveil-"
MONTH = "_dates/2023/08/catalog.json"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def found(root: Path) -> list[str]:
    """Ids of all items that links lead to, sorted, those found twice twice; the catalog is valid."""
    assert problems_in(root) == []
    return sorted(item.id for item in pystac.Catalog.from_file(str(root / "catalog.json")).get_items(recursive=True))


@pytest.fixture
def small_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes with room for few items."""
    monkeypatch.setattr("stac.catalog.tree._ROOM", {2: 1, 3: 1, 4: 2})


@pytest.fixture
def catalog(tmp_path: Path) -> StaticCatalog:
    return StaticCatalog(tmp_path / "catalog")


def test_a_full_month_goes_on_in_days_and_pages(catalog: StaticCatalog, staged: Any, small_nodes: None) -> None:
    names = [f"{number:04d}" for number in range(5)]
    for name in names:
        catalog.publish(*staged(catalog, name))
    assert found(catalog.root) == [NAME + name for name in names]
    parents = [node_of(read(catalog.root / "unveil-cloud-free" / (NAME + n) / f"{NAME}{n}.json")) for n in names]
    day = ("2023", "08", "10")
    assert [node.path for node in parents if node] == [day[:2], day, *[(*day, "p001")] * 2, (*day, "p002")]
    assert set(catalog.published_work()) == set(names)
    assert read(catalog.collection_path)["unveil:contents"]["items"] == 5
    for name in names[:4]:
        catalog.withdraw(NAME + name)
    assert found(catalog.root) == [NAME + names[4]]
    nodes = sorted(p.parent.name for p in (catalog.root / "unveil-cloud-free" / "_dates").rglob("catalog.json"))
    assert nodes == ["08", "10", "2023", "p002"], "what holds nothing is gone"
    catalog.publish(*staged(catalog, "aaaa"))
    assert len(found(catalog.root)) == 2


def test_what_another_tool_wrote_stays(catalog: StaticCatalog, staged: Any) -> None:
    root = catalog.root
    root.mkdir()
    theirs = {
        "type": "Catalog", "stac_version": "1.1.0", "id": "ours-is-theirs", "description": "d", "note": {"a": 1},
        "links": [
            {"rel": "root", "href": "catalog.json"},
            {"rel": "child", "href": "https://example.com/c/collection.json", "title": "far"},
            {"rel": "license", "href": "LICENSE.txt"},
        ],
    }  # fmt: skip
    (root / "catalog.json").write_text(json.dumps(theirs))
    catalog.publish(*staged(catalog, "aaaa"))
    after = read(root / "catalog.json")
    ours = {"rel": "child", "href": "./unveil-cloud-free/collection.json", "type": "application/json"}
    assert after == theirs | {"links": after["links"]}
    assert [link for link in after["links"] if ours.items() <= link.items()]
    assert [link for link in after["links"] if not ours.items() <= link.items()] == theirs["links"]
    edited = read(catalog.collection_path)
    edited["providers"].insert(0, {"name": "Host", "roles": ["host"]})
    edited |= {"note": 1, "summaries": edited["summaries"] | {"theirs": ["x"]}}
    edited["links"].append({"rel": "about", "href": "https://example.com"})
    catalog.collection_path.write_text(json.dumps(edited))
    catalog.publish(*staged(catalog, "bbbb"))
    kept = read(catalog.collection_path)
    assert kept["note"] == 1 and kept["summaries"]["theirs"] == ["x"] and kept["providers"][0]["name"] == "Host"
    assert {"rel": "about", "href": "https://example.com"} in kept["links"]
    for name in ("aaaa", "bbbb"):
        catalog.withdraw(NAME + name)
    assert read(root / "catalog.json") == theirs


def test_the_same_id_of_other_work_is_replaced(catalog: StaticCatalog, staged: Any) -> None:
    catalog.publish(*staged(catalog, "aaaa"))
    folder, item = staged(catalog, "aaaa")
    item.properties["unveil:work_id"] = "other"
    place = catalog.publish(folder, item)
    assert found(catalog.root) == [NAME + "aaaa"] and catalog.published_work() == {"other": place}


@pytest.mark.parametrize("document", [MONTH, "_dates/2023/catalog.json", "collection.json"])
def test_a_lost_or_damaged_document_is_made_again(catalog: StaticCatalog, staged: Any, document: str) -> None:
    for name in ("aaaa", "bbbb"):
        catalog.publish(*staged(catalog, name))
    before = {p: p.read_bytes() for p in catalog.root.rglob("*.json")}
    for damage in (lambda p: p.write_text("{"), lambda p: p.unlink()):
        damage(catalog.root / "unveil-cloud-free" / document)
        catalog.repair()
        assert found(catalog.root) == [NAME + "aaaa", NAME + "bbbb"]
        assert {p: p.read_bytes() for p in catalog.root.rglob("*.json")} == before


def test_damaged_sums_are_written_anew(catalog: StaticCatalog, staged: Any, small_nodes: None) -> None:
    for name in ("aaaa", "bbbb"):
        catalog.publish(*staged(catalog, name))
    before = {p: p.read_bytes() for p in catalog.root.rglob("*.json")}
    for path in (catalog.root / "unveil-cloud-free").rglob("c*.json"):
        path.write_text(path.read_text().replace('"items": ', '"items": "many", "was": '))
    assert set(catalog.published_work()) == {"aaaa", "bbbb"}
    with pytest.raises(InvalidProduct, match=r"unveil:contents of .* is damaged"):
        keep_mirror(catalog)
    catalog.repair()
    assert {p: p.read_bytes() for p in catalog.root.rglob("*.json")} == before


@pytest.mark.parametrize("item_id", ["a/b", "../a", "a..b", "_dates", ".hidden", ""])
def test_an_id_that_leads_elsewhere_is_refused(catalog: StaticCatalog, staged: Any, item_id: str) -> None:
    folder, item = staged(catalog, "aaaa")
    item.id = item_id
    with pytest.raises(InvalidProduct, match="cannot be a folder name"):
        catalog.publish(folder, item)
    for act in (catalog.withdraw, catalog.staging, catalog.beside):
        with pytest.raises(InvalidProduct, match="cannot be a folder name"):
            act(item_id)
    assert [p.name for p in catalog.root.iterdir()] == [".staging"]


def test_a_clock_that_went_backwards_harms_nothing(catalog: StaticCatalog, staged: Any) -> None:
    future = 4_000_000_000
    live = staged(catalog, "live")[0]
    folder, item = staged(catalog, "aaaa")
    item.properties |= {"created": "2096-10-02T00:00:00Z", "updated": "2020-01-01T00:00:00Z"}
    for path in (*live.iterdir(), live, *folder.iterdir(), folder):
        os.utime(path, (future, future))
    catalog.publish(folder, item)
    catalog.repair(older_than_s=0)
    assert live.is_dir() and len(list(live.iterdir())) > 5
    catalog.publish(*staged(catalog, "bbbb"))
    assert found(catalog.root) == [NAME + "aaaa", NAME + "bbbb"]


def test_many_publishers_and_a_reader_in_a_larger_catalog(tmp_path: Path) -> None:
    given = ("--items", "150", "--publishers", "8", "--crowded", "8", "--lay")
    done = subprocess.run(
        [sys.executable, "-m", "tests.load.publish_many", *given, "--work", tmp_path],
        cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    figures = json.loads(done.stdout)
    assert done.returncode == 0 and figures["ok"], (figures, done.stderr)
    assert figures["items"] == 168 and figures["walks"] > 0 and figures["most_links"] <= 101
