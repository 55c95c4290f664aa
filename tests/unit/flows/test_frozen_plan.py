"""Frozen plans on the sample's real items: executed exactly, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pystac
import pytest

from flows.errors import InvalidPlan
from flows.planning.plan_file import FrozenPlan, freeze, read_plan, revive, settings_of, thaw, write_plan
from flows.planning.workunit import ModelRef, make_plan
from flows.processing.unit import job_of
from flows.settings import RunSettings
from flows.settings.loading import load_settings
from stac.search.opening import open_source
from stac.search.static import sample_catalog

MODEL = ModelRef("unveil-de", "7", "a" * 64, "weights")


@pytest.fixture(scope="module")
def items() -> list[pystac.Item]:
    return open_source(str(sample_catalog())).search(load_settings().query)


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
