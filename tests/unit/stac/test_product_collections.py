"""What failed the gate waits in a collection of its own; versions of one product name each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pystac
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stac.catalog.documents import REVIEW_COLLECTION
from stac.catalog.product_collections import (
    GATE,
    GATE_LIMITS,
    GATE_REASONS,
    GateState,
    ProductCollection,
    broken_work,
    copy_catalog,
    finished_work,
    publish_to_collection,
    published_place,
    repair_collections,
)
from stac.catalog.publish import DEFAULT_COLLECTION, StaticCatalog
from stac.catalog.validation import validate_item
from stac.catalog.versions import in_succession
from stac.quality.gate import Gate
from tests.support.catalogs import problems_in

Publish = Callable[..., Path]
LIMITS = asdict(Gate())


@pytest.fixture
def publish(tmp_path: Path, staged: Callable[..., tuple[Path, pystac.Item]]) -> Publish:
    """Publish a product with a verdict; return the path of its item."""

    def make(work_id: str, state: GateState, limits: dict[str, float] = LIMITS) -> Path:
        folder, item = staged(StaticCatalog(tmp_path), work_id)
        item.properties |= {GATE: state.value, GATE_LIMITS: limits}
        if state is GateState.FAILED:
            item.properties[GATE_REASONS] = ["Seam ratio is 4, above the limit of 3."]
        return publish_to_collection(StaticCatalog(tmp_path), folder, item)

    return make


def _items(root: Path) -> dict[str, list[str]]:
    """Return the ids of all items that links lead to, by collection."""
    catalog = pystac.Catalog.from_file(str(root / "catalog.json"))
    return {c.id: sorted(item.id for item in c.get_items(recursive=True)) for c in catalog.get_children()}


def test_what_failed_is_not_published_as_good(tmp_path: Path, publish: Publish) -> None:
    good, bad = publish("aaaa", GateState.PASSED), publish("bbbb", GateState.FAILED)
    assert _items(tmp_path) == {DEFAULT_COLLECTION: [good.stem], REVIEW_COLLECTION: [bad.stem]}
    assert problems_in(tmp_path) == []
    document = json.loads(bad.read_text())
    assert document["collection"] == REVIEW_COLLECTION and document["properties"][GATE] == "failed"
    assert document["properties"][GATE_REASONS] == ["Seam ratio is 4, above the limit of 3."]
    titles = {json.loads(p.read_text())["title"] for p in tmp_path.glob("unveil-*/collection.json")}
    assert titles == {"Cloud-free acquisitions", "Needs review"}


def test_an_item_that_passes_later_leaves_the_review(tmp_path: Path, publish: Publish) -> None:
    publish("aaaa", GateState.FAILED)
    assert list(_items(tmp_path)) == [REVIEW_COLLECTION]
    path = publish("aaaa", GateState.PASSED, {})
    assert _items(tmp_path) == {DEFAULT_COLLECTION: [path.stem]}
    assert not (tmp_path / REVIEW_COLLECTION).exists() and problems_in(tmp_path) == []


def test_one_of_two_leaves_and_the_other_stays_linked(tmp_path: Path, publish: Publish) -> None:
    publish("aaaa", GateState.FAILED)
    stays = publish("bbbb", GateState.FAILED)
    StaticCatalog(tmp_path, ProductCollection.REVIEW).withdraw(stays.stem.replace("bbbb", "aaaa"))
    StaticCatalog(tmp_path, ProductCollection.REVIEW).withdraw("never-there")
    assert _items(tmp_path) == {REVIEW_COLLECTION: [stays.stem]} and problems_in(tmp_path) == []


def test_waiting_work_is_finished_until_the_gate_changes(tmp_path: Path, publish: Publish) -> None:
    good, bad = publish("aaaa", GateState.PASSED), publish("bbbb", GateState.FAILED)
    catalog = StaticCatalog(tmp_path)
    assert finished_work(catalog, LIMITS) == {"aaaa": good, "bbbb": bad}
    assert published_place(catalog, bad.stem, "bbbb", LIMITS) == bad
    for other in (asdict(Gate(max_seam_ratio=5)), None):
        assert finished_work(catalog, other) == {"aaaa": good}
        assert published_place(catalog, bad.stem, "bbbb", other) is None


def test_one_product_counts_as_published_when_it_is_whole_and_linked(tmp_path: Path, publish: Publish) -> None:
    catalog, place = StaticCatalog(tmp_path), publish("aaaa", GateState.PASSED)
    assert published_place(catalog, place.stem, "aaaa", None) == place
    assert published_place(catalog, place.stem, "of other work", None) is None
    assert published_place(catalog, "not-there", "aaaa", None) is None
    node = place.parent / json.loads(place.read_text())["links"][1]["href"]
    linked = json.loads(node.read_text())
    node.write_text(json.dumps(linked | {"links": [link for link in linked["links"] if link["rel"] != "item"]}))
    assert published_place(catalog, place.stem, "aaaa", None) is None
    node.write_text(json.dumps(linked))
    (place.parent / "data.tif").unlink()
    assert published_place(catalog, place.stem, "aaaa", None) is None
    assert "data.tif is missing" in broken_work(catalog, {"aaaa": place})["aaaa"]


def test_a_crash_between_publishing_and_withdrawing_is_repaired(
    tmp_path: Path, publish: Publish, staged: Callable[..., tuple[Path, pystac.Item]]
) -> None:
    waits, bad = publish("bbbb", GateState.FAILED), publish("aaaa", GateState.FAILED)
    folder, item = staged(StaticCatalog(tmp_path), "aaaa")
    good = StaticCatalog(tmp_path).publish(folder, item)
    assert bad.is_file() and good.is_file(), "as a crash leaves them"
    (tmp_path / REVIEW_COLLECTION / "collection.json").unlink()
    finished = repair_collections(StaticCatalog(tmp_path), LIMITS)
    assert finished == {"aaaa": good, "bbbb": waits} == finished_work(StaticCatalog(tmp_path), LIMITS)
    assert _items(tmp_path) == {DEFAULT_COLLECTION: [good.stem], REVIEW_COLLECTION: [waits.stem]}
    assert problems_in(tmp_path) == []


_RELATIONS = {"predecessor-version", "successor-version", "latest-version"}


def relations(document: dict[str, Any]) -> dict[str, str]:
    return {link["rel"]: link["href"] for link in document["links"] if link["rel"] in _RELATIONS}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter_and_settling_twice_changes_nothing(minutes: list[int], draw: Any) -> None:
    made = [
        {"id": f"scene-unveil-{n}", "properties": {"created": f"2026-01-01T00:{minute:02}:00Z"}, "links": []}
        for n, minute in enumerate(minutes)
    ]
    settled = in_succession(made)
    assert in_succession(draw.sample(made, len(made))) == settled == in_succession(settled)
    assert sum(document["properties"].get("deprecated", False) for document in settled) == len(made) - 1


def test_a_product_made_again_deprecates_those_before(tmp_path: Path, staged: Any) -> None:
    catalog = StaticCatalog(tmp_path / "catalog")
    for work_id in ("aaaa", "bbbb", "cccc", "bbbb"):
        publish_to_collection(catalog, *staged(catalog, work_id))
    names = [f"S2B_33TWM_20230810_0_L2A-unveil-{letter * 4}" for letter in "abc"]
    place = {name: f"../{name}/{name}.json" for name in names}
    old, middle, new = (catalog.document(name) or {} for name in names)
    assert relations(old) == {"successor-version": place[names[1]], "latest-version": place[names[2]]}
    assert relations(middle)["latest-version"] == relations(middle)["successor-version"] == place[names[2]]
    assert relations(new) == {"predecessor-version": place[names[1]]}
    assert [d["properties"]["version"] for d in (old, middle, new)] == ["1", "2", "3"], (
        "published again, it keeps its own"
    )
    assert [d["properties"].get("deprecated") for d in (old, middle, new)] == [True, True, None]
    assert all(link["title"] for link in old["links"]) and problems_in(tmp_path / "catalog") == []
    validate_item(old)
    for name in names[:0:-1]:
        catalog.withdraw(name)
    again = catalog.document(names[0]) or {}
    assert "deprecated" not in again["properties"] and relations(again) == {}


def test_a_copy_that_was_damaged_is_made_whole(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, publish: Publish
) -> None:
    first, second = publish("aaaa", GateState.PASSED), publish("bbbb", GateState.PASSED)
    copy = StaticCatalog(tmp_path_factory.mktemp("copy"))
    copy_catalog(tmp_path, copy)
    Path(str(copy.place_of(first.stem))).with_name("visual.tif").unlink()
    Path(str(copy.place_of(second.stem))).write_text("{", "utf-8")
    assert sum(done.copied for done in copy_catalog(tmp_path, copy)) == 2
    assert problems_in(copy.root) == []
    assert sum(done.copied for done in copy_catalog(tmp_path, copy)) == 0


def test_a_copy_follows_versions_and_verdicts(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, publish: Publish
) -> None:
    older, waiting = publish("aaaa", GateState.PASSED), publish("dddd", GateState.FAILED)
    copy = StaticCatalog(tmp_path_factory.mktemp("copy"))
    copy_catalog(tmp_path, copy)
    publish("bbbb", GateState.PASSED)
    assert publish("dddd", GateState.PASSED).stem == waiting.stem
    copy_catalog(tmp_path, copy)
    assert problems_in(copy.root) == [] and _items(copy.root) == _items(tmp_path)
    for root in (tmp_path, copy.root):
        document = StaticCatalog(root).document(older.stem) or {}
        assert document["properties"]["deprecated"] is True and "latest-version" in relations(document)


def test_two_areas_of_one_scene_are_no_versions_of_each_other(tmp_path: Path, staged: Any) -> None:
    catalog = StaticCatalog(tmp_path / "catalog")
    for work_id, shift in (("aaaa", 0), ("bbbb", 100_000), ("cccc", 0)):
        folder, item = staged(catalog, work_id)
        west, south, east, north = item.properties["proj:bbox"]
        item.properties["proj:bbox"] = [west + shift, south, east + shift, north]
        publish_to_collection(catalog, folder, item)
    first, beside, again = (catalog.document(f"S2B_33TWM_20230810_0_L2A-unveil-{x * 4}") or {} for x in "abc")
    assert [d["properties"].get("deprecated") for d in (first, beside, again)] == [True, None, None]
    assert [d["properties"]["version"] for d in (first, beside, again)] == ["1", "1", "2"]
    assert relations(beside) == {}
