"""What failed the gate waits in a collection of its own; versions of one product name each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
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
    finished_work,
    publish_to_collection,
    published_place,
    repair_collections,
)
from stac.catalog.publish import DEFAULT_COLLECTION, StaticCatalog
from stac.catalog.validation import validate_item
from stac.catalog.versions import in_succession, number_of, subject_of, version_for
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


def version(name: str, version: str | None = None, minute: int = 0) -> dict[str, Any]:
    created = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
    properties = {"created": created.isoformat()} | ({} if version is None else {"version": version})
    return {
        "id": f"scene-unveil-{name}",
        "properties": properties,
        "links": [{"rel": "root", "href": "r", "title": "R"}],
    }


def relations(document: dict[str, Any]) -> dict[str, str]:
    return {link["rel"]: link["href"] for link in document["links"] if link["rel"] in _RELATIONS}


def test_three_versions_name_each_other_and_only_the_newest_is_current() -> None:
    one, two, three = in_succession([version("c", "3"), version("a", "1"), version("b", "2")])
    b, c = "../scene-unveil-b/scene-unveil-b.json", "../scene-unveil-c/scene-unveil-c.json"
    assert relations(one) == {"successor-version": b, "latest-version": c}
    assert relations(two)["latest-version"] == relations(two)["successor-version"] == c
    assert relations(three) == {"predecessor-version": b}
    assert [d["properties"].get("deprecated") for d in (one, two, three)] == [True, True, None]
    assert all(link["title"] for document in (one, two, three) for link in document["links"])


def test_the_one_before_is_current_again_when_the_newest_goes() -> None:
    one, _ = in_succession([version("a", "1"), version("b", "2")])
    assert in_succession([one]) == [version("a", "1")]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_matter_and_settling_twice_changes_nothing(minutes: list[int], random: Any) -> None:
    made = [version(str(n), None, minute) for n, minute in enumerate(minutes)]
    settled = in_succession(made)
    shuffled = random.sample(made, len(made))
    assert in_succession(shuffled) == settled == in_succession(settled)
    assert sum(document["properties"].get("deprecated", False) for document in settled) == len(made) - 1
    assert all(made_one["links"] == version("x")["links"] for made_one in made), "what was given stays as it was"


def test_numbers_count_on_and_an_item_that_is_published_again_keeps_its_own() -> None:
    published = [version("a"), version("b", "7")]
    assert version_for("scene-unveil-c", published) == "8" and version_for("scene-unveil-a", published) == "1"
    assert version_for("scene-unveil-a", []) == "1" and number_of(version("a", "two")) == 1
    assert subject_of("S2A_33TWL-r1c2-unveil-0123") == "S2A_33TWL-r1c2" and subject_of("other") == ""


def test_a_product_made_again_deprecates_the_one_before(tmp_path: Path, staged: Any) -> None:
    catalog = StaticCatalog(tmp_path / "catalog")
    for work_id in ("aaaa", "bbbb"):
        publish_to_collection(catalog, *staged(catalog, work_id))
    old, new = (catalog.document(f"S2B_33TWM_20230810_0_L2A-unveil-{name}") or {} for name in ("aaaa", "bbbb"))
    assert old["properties"]["deprecated"] is True and relations(old)["successor-version"].endswith("-bbbb.json")
    assert (new["properties"]["version"], "deprecated" in new["properties"]) == ("2", False)
    assert relations(new)["predecessor-version"].endswith("unveil-aaaa.json")
    validate_item(old)
    assert problems_in(tmp_path / "catalog") == []
    catalog.withdraw(new["id"])
    again = catalog.document(old["id"]) or {}
    assert "deprecated" not in again["properties"] and relations(again) == {}
