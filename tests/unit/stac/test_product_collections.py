"""What failed the gate waits in a collection of its own, and moves when it is judged anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pystac
import pytest

from stac.catalog.documents import REVIEW_COLLECTION
from stac.catalog.product_collections import (
    GATE,
    GATE_LIMITS,
    GATE_REASONS,
    GateState,
    ProductCollection,
    broken_work,
    finished_work,
    publish_to_collection,
    published_place,
    repair_collections,
)
from stac.catalog.publish import DEFAULT_COLLECTION, StaticCatalog
from stac.quality.gate import Gate, gate_document
from tests.support.catalogs import problems_in

Publish = Callable[..., Path]
LIMITS = gate_document(Gate())


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
    for other in (gate_document(Gate(max_seam_ratio=5)), None):
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
