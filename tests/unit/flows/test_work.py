"""Plans and ids of work units, on the shipped sample's real items."""

from __future__ import annotations

import copy

import pystac
import pytest

from flows.settings import load_settings
from flows.work import ModelRef, make_plan
from stac.errors import EmptySearch
from stac.sample_catalog import sample_catalog
from stac.sources import open_source

MODEL = ModelRef("unveil-de", "1", "a" * 64, "weights")


@pytest.fixture(scope="module")
def items() -> list[pystac.Item]:
    return open_source(str(sample_catalog())).search(load_settings().query)


def test_the_sample_gives_one_unit_per_cloudy_date_and_cell(items: list[pystac.Item]) -> None:
    plan = make_plan(items, load_settings(), MODEL)
    cloudy = {i.id for i in items if 5 <= i.properties["eo:cloud_cover"] <= 80}
    assert {unit.target_id for unit in plan.units} == cloudy and len(cloudy) >= 3
    assert plan.scenes == 10 and plan.refused == ()
    for unit in plan.units:
        assert len(unit.donor_ids) == 4 and unit.target_id not in unit.donor_ids
        assert all(unit.cell_id.removeprefix("MGRS-") in donor for donor in unit.donor_ids)
        assert unit.item_id.startswith(unit.target_id) and unit.work_id[:8] in unit.item_id


def test_ids_follow_from_the_inputs_alone(items: list[pystac.Item]) -> None:
    first = make_plan(items, load_settings(), MODEL)
    again = make_plan(list(reversed(items)), load_settings(None, {"out": "elsewhere"}), MODEL)
    assert {u.work_id for u in first.units} == {u.work_id for u in again.units}


@pytest.mark.parametrize("change", ["seed", "model", "reprocessed", "donor"])
def test_ids_change_with_every_input(items: list[pystac.Item], change: str) -> None:
    settings, model, scenes = load_settings(), MODEL, [item.clone() for item in items]
    before = {u.target_id: u.work_id for u in make_plan(scenes, settings, model).units}
    if change == "seed":
        settings = load_settings(None, {"seed": 1})
    elif change == "model":
        model = ModelRef("unveil-de", "2", "b" * 64, "weights")
    elif change == "reprocessed":
        for scene in scenes:
            scene.properties = copy.deepcopy(scene.properties) | {"updated": "2024-01-01T00:00:00Z"}
    else:
        scenes = [scene for scene in scenes if "20230820" not in scene.id]
    after = {u.target_id: u.work_id for u in make_plan(scenes, settings, model).units}
    assert after.keys() == before.keys()
    assert all(after[target] != before[target] for target in before)


def test_nothing_in_the_cloud_range_is_told_with_what_was_found(items: list[pystac.Item]) -> None:
    with pytest.raises(EmptySearch, match=r"10 scenes were found, with \d+ to \d+ % cloud"):
        make_plan(items, load_settings(None, {"min_cloud": 97, "max_cloud": 98}), MODEL)


def test_a_scene_too_large_for_memory_is_refused_not_tried(items: list[pystac.Item]) -> None:
    plan = make_plan(items, load_settings(None, {"max_pixels": 1000}), MODEL)
    assert plan.units == () and all("--bbox" in refused.reason for refused in plan.refused)


def test_a_box_clips_the_cell_and_changes_the_id(items: list[pystac.Item]) -> None:
    whole = make_plan(items, load_settings(), MODEL)
    part = make_plan(items, load_settings(None, {"bbox": "15.6,45.7,15.8,45.9"}), MODEL)
    clipped = [u for u in part.units if "WL" in u.cell_id]
    assert clipped and all(0 < u.pixels < 40_000 for u in clipped)
    assert {u.work_id for u in clipped}.isdisjoint(u.work_id for u in whole.units)
