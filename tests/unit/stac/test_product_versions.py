"""Products of one target made again: versions, links between them, and what a reader sees of the older ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stac.catalog.product_collections import publish_to_collection
from stac.catalog.publish import StaticCatalog
from stac.catalog.validation import validate_item
from stac.catalog.versions import in_succession, number_of, subject_of, version_for
from tests.support.catalogs import problems_in

_RELATIONS = {"predecessor-version", "successor-version", "latest-version"}


def item(name: str, version: str | None = None, minute: int = 0) -> dict[str, Any]:
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
    one, two, three = in_succession([item("c", "3"), item("a", "1"), item("b", "2")])
    b, c = "../scene-unveil-b/scene-unveil-b.json", "../scene-unveil-c/scene-unveil-c.json"
    assert relations(one) == {"successor-version": b, "latest-version": c}
    assert relations(two)["latest-version"] == relations(two)["successor-version"] == c
    assert relations(three) == {"predecessor-version": b}
    assert [d["properties"].get("deprecated") for d in (one, two, three)] == [True, True, None]
    assert all(link["title"] for document in (one, two, three) for link in document["links"])


def test_the_one_before_is_current_again_when_the_newest_goes() -> None:
    one, _ = in_succession([item("a", "1"), item("b", "2")])
    assert in_succession([one]) == [item("a", "1")]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_matter_and_settling_twice_changes_nothing(minutes: list[int], random: Any) -> None:
    made = [item(str(n), None, minute) for n, minute in enumerate(minutes)]
    settled = in_succession(made)
    shuffled = random.sample(made, len(made))
    assert in_succession(shuffled) == settled == in_succession(settled)
    assert sum(document["properties"].get("deprecated", False) for document in settled) == len(made) - 1
    assert all(made_one["links"] == item("x")["links"] for made_one in made), "what was given stays as it was"


def test_numbers_count_on_and_an_item_that_is_published_again_keeps_its_own() -> None:
    published = [item("a"), item("b", "7")]
    assert version_for("scene-unveil-c", published) == "8" and version_for("scene-unveil-a", published) == "1"
    assert version_for("scene-unveil-a", []) == "1" and number_of(item("a", "two")) == 1
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
