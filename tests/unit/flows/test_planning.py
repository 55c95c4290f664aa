"""Plans on the shipped sample's real items: periods, units and their ids, and frozen plans."""

from __future__ import annotations

import copy
import json
from datetime import date
from pathlib import Path

import numpy as np
import pystac
import pytest
from shapely.geometry import MultiPolygon, Polygon, box, mapping

from flows.errors import InvalidPlan, InvalidSettings, WorkFailed
from flows.ledger.schema import State
from flows.planning.candidates import Cause
from flows.planning.periods import periods_of
from flows.planning.plan_file import FrozenPlan, freeze, read_plan, revive, settings_of, thaw, write_plan
from flows.planning.region import region_of
from flows.planning.search import SceneSet, dated_stacks_of
from flows.planning.workunit import ModelRef, make_plan, unit_cell, unit_dates
from flows.processing.unit import job_of
from flows.running.preparation import plan_rows, prepare_run
from flows.running.summary import summary_of
from flows.running.unit_tasks import refused_results
from flows.settings import RunSettings
from flows.settings.loading import load_settings
from flows.settings.mosaic_options import MosaicOptions
from stac.catalog.validation import check_id, safe_id
from stac.catalog.versions import subject_of
from stac.errors import EmptySearch, InvalidQuery
from stac.search.opening import open_source
from stac.search.source import Skipped
from stac.search.static import sample_catalog
from tests.faults.world import World


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("2018", "2018-01-01", "2018-12-31"),
        ("2018-Q4", "2018-10-01", "2018-12-31"),
        ("2020-DJF", "2019-12-01", "2020-02-29"),
        ("2018-JJA", "2018-06-01", "2018-08-31"),
        ("2018-12", "2018-12-01", "2018-12-31"),
        ("2018-02-D3", "2018-02-21", "2018-02-28"),
        ("2018-02-D1", "2018-02-01", "2018-02-10"),
        ("2018-07-03/2018-07-20", "2018-07-03", "2018-07-20"),
    ],
)
def test_a_name_says_its_days(name: str, first: str, last: str) -> None:
    (found,) = periods_of(name, "2000-01-01")
    assert (found.first, found.last) == (date.fromisoformat(first), date.fromisoformat(last))
    assert periods_of(found.name, "2000-01-01") == [found]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("dekad", ["2018-12-D3", "2019-01-D1", "2019-01-D2"]),
        ("month", ["2018-12", "2019-01"]),
        ("quarter", ["2018-Q4", "2019-Q1"]),
        ("season", ["2019-DJF"]),
        ("year", ["2018", "2019"]),
        ("dates", ["2018-12-25_2019-01-12"]),
    ],
)
def test_a_kind_divides_an_interval_into_whole_periods(kind: str, names: list[str]) -> None:
    assert [each.name for each in periods_of(kind, "2018-12-25/2019-01-12")] == names


def test_a_schedule_takes_the_periods_that_ended_last() -> None:
    found = periods_of("month", "2000-01-01", last=2, today=date(2026, 1, 31))
    assert [each.name for each in found] == ["2025-11", "2025-12"]


@pytest.mark.parametrize("name", ["July", "2018-13", "2018-7", "2018-07-20/2018-07-03", "2018-Q5", ""])
def test_what_is_not_a_period_is_said(name: str) -> None:
    with pytest.raises(InvalidSettings, match="Period"):
        periods_of(name, "2018-01-01")


def test_an_interval_of_thousands_of_periods_is_refused() -> None:
    with pytest.raises(InvalidQuery, match="more than 1000"):
        periods_of("dekad", "0001-01-01/9999-01-01")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([box(10, 1, 11, 2)], "10.0,1.0,11.0,2.0"),
        ([box(179, 1, 180, 2), box(-180, 1, -178, 2)], "179.0,1.0,-178.0,2.0"),
        ([box(-120, 1, -70, 2), box(-10, 1, 10, 2), box(60, 1, 140, 2)], "-120.0,1.0,140.0,2.0"),
        ([box(-180, 1, -160, 2), box(-10, 1, 10, 2)], "-180.0,1.0,10.0,2.0"),
    ],
)
def test_the_box_of_a_region_holds_all_of_its_parts(tmp_path: Path, parts: list[Polygon], expected: str) -> None:
    path = tmp_path / "region.geojson"
    path.write_text(json.dumps(mapping(MultiPolygon(parts))))
    assert region_of(RunSettings(), MosaicOptions(region=path)).bbox == expected


def test_a_region_drawn_across_the_antimeridian_as_one_ring_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "region.geojson"
    path.write_text(json.dumps(mapping(Polygon([(179, 1), (-179, 1), (-179, 2), (179, 2)]))))
    with pytest.raises(InvalidSettings, match=r"358 degrees wide.*cut it"):
        region_of(RunSettings(), MosaicOptions(region=path))


MODEL = ModelRef("unveil-de", "7", "a" * 64, "weights")


@pytest.fixture(scope="module")
def items() -> list[pystac.Item]:
    return open_source(str(sample_catalog())).search(load_settings().query)


def test_the_sample_gives_one_unit_per_cloudy_date_and_cell(items: list[pystac.Item]) -> None:
    plan = make_plan(items, load_settings(), MODEL)
    cloudy = {i.id for i in items if 5 <= i.properties["eo:cloud_cover"] <= 80}
    assert {unit.target_id for unit in plan.units} == cloudy and len(cloudy) >= 3
    assert plan.scenes == 10 and plan.refused == ()
    for unit in plan.units:
        assert len(unit.source_ids) == 4 and unit.target_id not in unit.source_ids
        assert all(unit.cell_id.removeprefix("MGRS-") in donor for donor in unit.source_ids)
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


def test_nothing_in_the_cloud_range_is_reported_with_what_was_found(items: list[pystac.Item]) -> None:
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


def test_every_scene_of_the_interval_has_a_unit_or_a_reason(items: list[pystac.Item]) -> None:
    older = Skipped("old", "Item old is an older version of it; it is not used.", items[0].id)
    plan = make_plan(items, load_settings(), MODEL, [older, Skipped("bad", "Item bad has no assets.")])
    named = {unit.target_id for unit in plan.units} | {each.target_id for each in (*plan.refused, *plan.left_out)}
    assert named == {item.id for item in items} | {"old", "bad"}
    causes = {each.target_id: each.cause for each in plan.left_out}
    assert (causes["old"], causes["bad"]) == (Cause.VERSION, Cause.UNUSABLE)
    for unit in plan.units:
        assert "Item bad has no assets." in unit.left_out
        uses = any(items[0].id in date for date in unit.dates)
        assert (older.reason in unit.left_out) == uses


@pytest.mark.parametrize(
    "name", ["S2/33TWM/2023/8/10", "urn:eop:33TWM", "a scene of Août", ".hidden", "-dash", "..", "x" * 250, "日本"]
)
def test_a_product_of_any_id_is_named_safely_and_its_scene_keeps_its_name(name: str, items: list[pystac.Item]) -> None:
    scenes = copy.deepcopy(items)
    next(item for item in scenes if item.id == "S2A_33TWM_20230818_0_L2A").id = name
    (unit,) = (unit for unit in make_plan(scenes, load_settings(), MODEL).units if unit.target_id == name)
    assert check_id(unit.item_id) == unit.item_id and len(f".{unit.item_id}.json") < 200
    assert subject_of(unit.item_id) == safe_id(name) != safe_id(name + "x")


FIXED = {"grid": "fixed", "resolution": 120, "cell_size": 256, "grid_origin": "60,0"}


def test_a_fixed_grid_gives_one_unit_per_cell_and_pass(items: list[pystac.Item]) -> None:
    plan = make_plan(items, load_settings(None, FIXED), MODEL)
    keys = [(unit.cell_id, unit.target_id) for unit in plan.units]
    assert len(keys) == len(set(keys)) and len({unit.work_id for unit in plan.units}) == len(keys)
    assert len({unit.item_id for unit in plan.units}) == len(keys)
    assert {unit.cell_id.rsplit("-", 1)[0] for unit in plan.units} == {"utm33n-120m-256px-x60y0"}
    several = [unit for unit in plan.units if len(unit.dates[0]) == 2]
    assert several, "some cells lie on both tiles"
    for unit in several:
        assert unit.target_id.startswith("sentinel-2") and {i[4:9] for i in unit.dates[0]} == {"33TWL", "33TWM"}
        assert len({i[10:18] for i in unit.dates[0]}) == 1, "one day"
    assert plan.refused == () and plan.left_out
    for each in plan.left_out:
        assert each.cause in (Cause.CLOUD, Cause.COVERAGE)
        assert ("min_coverage" if each.cause is Cause.COVERAGE else "% cloud; 5 to 80 %") in each.reason
    for unit in plan.units:
        used = [item_id for date in unit.dates for item_id in date]
        assert len(used) == len(set(used)) and len(unit.dates) == 1 + len(unit.source_ids)
        assert unit.pixels == 256 * 256


def test_a_cell_s_unit_does_not_depend_on_the_box(items: list[pystac.Item]) -> None:
    everywhere = {u.work_id: u for u in make_plan(items, load_settings(None, FIXED), MODEL).units}
    settings = load_settings(None, FIXED | {"bbox": "15.6,45.9,15.9,46.05"})
    found = open_source(str(sample_catalog())).search(settings.search)
    part = make_plan(found, settings, MODEL).units
    assert part and all(everywhere[unit.work_id] == unit for unit in part)
    assert len(part) < len(everywhere)


def test_a_cell_is_found_again_by_its_name(items: list[pystac.Item]) -> None:
    settings, by_id = load_settings(None, FIXED), {item.id: item for item in items}
    for unit in make_plan(items, settings, MODEL).units[:3]:
        cell, dates = unit_cell(unit, by_id, settings), unit_dates(unit, by_id)
        assert cell.id == unit.cell_id and cell.pixels == unit.pixels
        assert [date.id for date in dates] == [unit.target_id, *unit.source_ids]
        assert [date.item_ids for date in dates] == list(unit.dates)
    native = load_settings()
    unit = make_plan(items, native, MODEL).units[0]
    assert unit_cell(unit, by_id, native).id == unit.cell_id


def test_dates_that_hardly_touch_a_cell_are_left_out_with_the_reason(items: list[pystac.Item]) -> None:
    scenes = [item.clone() for item in items if "33TWL" in item.id]
    narrow = mapping(box(15.3, 45.6, 15.301, 45.601))
    donor = next(scene for scene in scenes if "20230813" in scene.id)
    donor.geometry = narrow
    plan = make_plan(scenes, load_settings(), MODEL)
    assert plan.units
    for unit in plan.units:
        assert donor.id not in unit.source_ids
        assert any(donor.id in reason and "min_coverage" in reason for reason in unit.left_out)
    target = next(scene for scene in scenes if "20230810" in scene.id)
    target.geometry = narrow
    refused = make_plan(scenes, load_settings(), MODEL).refused
    assert [r.target_id for r in refused] == [target.id] and "0.00% of cell MGRS-33TWL" in refused[0].reason


def test_two_halves_of_a_swath_are_one_date(items: list[pystac.Item]) -> None:
    scenes = [item.clone() for item in items if "33TWL" in item.id]
    before = make_plan(scenes, load_settings(), MODEL).units
    half = next(scene for scene in scenes if "20230813" in scene.id).clone()
    half.id = half.id.replace("_0_L2A", "_1_L2A")
    after = make_plan([*scenes, half], load_settings(), MODEL).units
    assert len(after) == len(before) and {u.work_id for u in after}.isdisjoint(u.work_id for u in before)
    for unit in after:
        assert any(half.id in date and len(date) == 2 for date in unit.dates)


def test_scenes_without_the_name_of_a_square_find_their_source_dates_by_overlap(items: list[pystac.Item]) -> None:
    scenes = [item.clone() for item in items if "33TWL" in item.id]
    for scene in scenes:
        for name in ("grid:code", "mgrs:utm_zone", "mgrs:latitude_band", "mgrs:grid_square", "s2:mgrs_tile"):
            scene.properties.pop(name, None)
    named = {u.target_id: set(u.source_ids) for u in make_plan(items, load_settings(), MODEL).units}
    for unit in make_plan(scenes, load_settings(), MODEL).units:
        assert set(unit.source_ids) == named[unit.target_id]


def test_a_scene_without_a_place_is_refused_alone(items: list[pystac.Item]) -> None:
    scenes = [item.clone() for item in items]
    lost = next(scene for scene in scenes if "33TWL_20230810" in scene.id)
    lost.geometry = {"type": "Polygon", "coordinates": [[["x", 1]]]}
    for grid in ({}, FIXED):
        plan = make_plan(scenes, load_settings(None, grid), MODEL)
        assert plan.units and [r.target_id for r in plan.refused] == [lost.id]


def test_scenes_in_the_cell_s_own_projection_are_drawn_first(items: list[pystac.Item]) -> None:
    """Neighbours of two zones overlap; the pixels that need no resampling win, whatever their ids."""
    scenes = [item.clone() for item in items]
    for scene in scenes:
        if "33TWL" in scene.id:
            scene.properties["proj:code"] = "EPSG:32634"
    several = [u for u in make_plan(scenes, load_settings(None, FIXED), MODEL).units if len(u.dates[0]) == 2]
    assert several and all("33TWM" in unit.dates[0][0] for unit in several)
    plain = [u for u in make_plan(items, load_settings(None, FIXED), MODEL).units if len(u.dates[0]) == 2]
    assert plain and all("33TWL" in unit.dates[0][0] for unit in plain)


def test_a_wrong_grid_is_reported_before_anything_is_planned(items: list[pystac.Item]) -> None:
    with pytest.raises(InvalidQuery, match="not in metres"):
        make_plan(items, load_settings(None, FIXED | {"grid_crs": 4326}), MODEL)


@pytest.fixture
def settings() -> RunSettings:
    return load_settings(None, {"seed": 5, "out": "there", "device": "cpu"})


@pytest.fixture
def plan(items: list[pystac.Item], settings: RunSettings) -> FrozenPlan:
    return freeze(make_plan(items, settings, MODEL).units, settings, MODEL)


def test_a_plan_survives_its_file_and_gives_the_same_units(
    items: list[pystac.Item], settings: RunSettings, plan: FrozenPlan, tmp_path: Path
) -> None:
    found = read_plan(write_plan(tmp_path / "plan.json", plan))
    assert found == plan and len(found.units) >= 3
    again = revive(found, items, settings_of(found, load_settings()), MODEL)
    assert [u.work_id for u in again.units] == [u.work_id for u in plan.units] and again.refused == ()


def test_settings_are_the_plans_and_places_are_those_of_who_executes_it(plan: FrozenPlan) -> None:
    local = load_settings(None, {"seed": 9, "out": "here", "held_wait_s": 1})
    found = settings_of(plan, local)
    assert (found.seed, found.model, str(found.out), found.held_wait_s) == (5, "models:/unveil-de/7", "here", 1)
    assert {"out", "state_dir", "ledger_url", "device"}.isdisjoint(plan.settings)


def test_new_scenes_are_not_part_of_a_frozen_plan_and_changed_ones_are_refused(
    items: list[pystac.Item], settings: RunSettings, plan: FrozenPlan
) -> None:
    few = plan.model_copy(update={"units": plan.units[:1]})
    assert [u.work_id for u in revive(few, items, settings, MODEL).units] == [plan.units[0].work_id]
    changed = [item.clone() for item in items]
    next(i for i in changed if i.id == plan.units[0].source_ids[0]).properties["updated"] = "2030-01-01T00:00:00Z"
    found = revive(few, changed, settings, MODEL)
    assert found.units == () and "cannot be made as planned" in found.refused[0].reason
    found = revive(few, [i for i in items if i.id != plan.units[0].target_id], settings, MODEL)
    assert found.units == () and "no longer in the source" in found.refused[0].reason


def test_another_model_does_not_stand_in(items: list[pystac.Item], settings: RunSettings, plan: FrozenPlan) -> None:
    with pytest.raises(InvalidPlan, match="sha256"):
        revive(plan, items, settings, ModelRef("unveil-de", "7", "b" * 64, "weights"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["units"][0].update(source_ids=[]), "was changed"),
        (lambda d: d["settings"].update(seed=6), "was changed"),
        (lambda d: d.update(version=99), "not a plan of this version"),
        (lambda d: d.clear(), "not a plan"),
    ],
)
def test_an_edited_plan_is_refused(plan: FrozenPlan, tmp_path: Path, change: object, says: str) -> None:
    path = write_plan(tmp_path / "plan.json", plan)
    document = json.loads(path.read_text("utf-8"))
    change(document)  # type: ignore[operator]
    path.write_text(json.dumps(document))
    with pytest.raises(InvalidPlan, match=says):
        read_plan(path)
    path.write_text("{")
    with pytest.raises(InvalidPlan, match="cannot be read"):
        read_plan(path)


def test_the_ledgers_own_record_gives_the_plan_back(plan: FrozenPlan) -> None:
    units = [job_of(unit, "r").unit for unit in plan.units]
    assert thaw(plan.request, units) == plan
    with pytest.raises(InvalidPlan, match="ledger"):
        thaw(plan.request, ['{"target": "of another version"}'])
    with pytest.raises(InvalidPlan, match="ledger"):
        thaw("", units)
    other = plan.model_copy(update={"settings": {**plan.settings, "unknown": 1}})
    with pytest.raises(InvalidPlan, match="unknown"):
        settings_of(other, load_settings())


def test_a_box_of_a_scene_set_is_the_part_of_its_squares_that_is_read() -> None:
    (whole, dates), (part, same) = (
        next(dated_stacks_of(SceneSet(cells=("MGRS-33TWM",), bbox=bbox))) for bbox in (None, "15.43,46.52,15.50,46.56")
    )
    assert [date.id for date in dates] == [date.id for date in same]
    column, row = (round(float(at)) for at in ~whole.cell.geobox.affine @ part.cell.geobox.affine @ (0, 0))
    height, width = part.dn.shape[2:]
    assert part.dn.size < whole.dn.size / 10
    assert np.array_equal(part.dn, whole.dn[:, :, row : row + height, column : column + width])


def test_a_file_that_cannot_be_read_for_its_grid_is_a_failure_that_no_setting_allows(tmp_path: Path) -> None:
    world = World(tmp_path)
    for day in (10, 15):
        world.scene(f"S2A_33TWM_202308{day}_0_L2A", f"2023-08-{day}T10:00:00Z")
    del world.scene("S2A_33TWM_20230820_0_L2A", "2023-08-20T10:00:00Z")["assets"]["blue"]
    items, _ = world.search()
    settings = load_settings(None, {"source": str(tmp_path), "out": tmp_path / "out"})
    before = make_plan(items, settings, MODEL)
    (tmp_path / "S2A_33TWM_20230815_0_L2A-blue.tif").rename(tmp_path / "away")

    ready = prepare_run(settings, looking=True)
    results = refused_results(ready.plan.refused)
    assert {r.target_id[10:18]: r.state for r in results} == {"20230815": State.FAILED, "20230820": State.INVALID}
    shown = {row["target_id"][10:18]: row["state"] for row in plan_rows(settings)}
    assert shown == {"20230810": "new", "20230815": "failed", "20230820": "invalid"}
    with pytest.raises(WorkFailed, match=r"1 failed and 1 cannot be used. The first, .*15_0_L2A: .*cannot be read"):
        summary_of(ready, "", 1.0, results).require_success(allow_invalid=True)
    again = revive(freeze(before.units, settings, MODEL), items, settings, MODEL)
    (refused,) = again.refused
    assert refused.failed and len(again.units) == 1 and "freeze a new plan" not in refused.reason
