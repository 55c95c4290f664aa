"""Distilled students: how they are made by the command, and that they walk their own way wherever they are used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from typer.testing import CliRunner

from de_model import checkpoint
from de_model.card import ModelCard
from de_model.distilled import Distilled
from de_model.enhancer import Enhancer
from de_model.errors import InvalidCheckpoint, InvalidModelInput
from de_model.presets import Preset
from de_model.training.stages import Stage
from de_model.weighting import WeightMode
from flows.cli import app
from flows.errors import InvalidSettings
from flows.loading import load_settings
from flows.models.model_item import record_of
from flows.models.registry import Registry
from flows.models.resolving import model_of
from flows.models.training import train_model
from flows.models.training_request import TrainingRequest, plan_stages
from flows.models.usage import alone, in_products
from flows.stacks import SceneSet
from flows.work import ModelRef, make_plan
from stac.sample_catalog import sample_catalog
from stac.sources import open_source

pytestmark = pytest.mark.usefixtures("one_thread")
BANDS = ("blue", "green", "red", "nir")
DISTILLED = Distilled(1, 200, "e" * 64)
OWN = ("dpmpp2m", 1, 200)


def weights(path: Path, distilled: Distilled | None = None) -> Path:
    torch.manual_seed(0)
    card = ModelCard(Preset.TINY, BANDS, 120.0, eta=0.2, weight_mode=WeightMode.BOUNDED, distilled=distilled)
    checkpoint.save(Enhancer(card), path)
    return path


def request(folder: Path, **changes: Any) -> TrainingRequest:
    usual = TrainingRequest(
        scenes=SceneSet(("MGRS-33TWM",)),
        out=folder / "student.safetensors",
        work=folder / "work",
        preset=Preset.TINY,
        stages=(Stage.DISTIL,),
        effort=0.1,
        batch=2,
    )
    return replace(usual, **changes)


def test_a_student_is_made_of_a_teacher_that_its_card_names(tmp_path: Path) -> None:
    teacher = weights(tmp_path / "teacher.safetensors")
    report = train_model(request(tmp_path, start=teacher))
    assert report is not None and [stage.stage for stage in report.stages] == [Stage.DISTIL]
    card = checkpoint.read_card(report.weights)
    assert card.distilled == Distilled(1, 200, checkpoint.sha256_of(teacher))
    assert (card.eta, card.weight_mode) == (0.2, WeightMode.BOUNDED)
    assert json.loads(card.training)["stages"][0]["stage"] == "distil"
    record = record_of(ModelRef("unveil-de", "2", report.sha256, str(report.weights)), card)
    assert record.hyperparameters["distilled.teacher_sha256"] == checkpoint.sha256_of(teacher)
    with pytest.raises(InvalidCheckpoint, match="is a student itself"):
        train_model(request(tmp_path, start=report.weights, work=tmp_path / "other"))


@pytest.mark.parametrize("stages", [(Stage.DISTIL,), (Stage.JOINT, Stage.DISTIL)])
def test_a_student_needs_finished_weights_and_nothing_beside(tmp_path: Path, stages: tuple[Stage, ...]) -> None:
    start = None if len(stages) == 1 else weights(tmp_path / "teacher.safetensors")
    with pytest.raises(InvalidSettings, match="give it alone, with --from TEACHER"):
        plan_stages(request(tmp_path, stages=stages, start=start))
    assert Stage.DISTIL not in {stage.stage for stage in plan_stages(request(tmp_path, stages=()))}


def test_the_command_refuses_a_student_without_a_teacher(tmp_path: Path) -> None:
    options = ["--stage", "distil", "--cell", "MGRS-33TWM", "--no-mlflow", "--out", str(tmp_path / "s.safetensors")]
    with pytest.raises(InvalidSettings, match="Stage distil makes a student of finished weights"):
        CliRunner().invoke(app, ["train", *options], catch_exceptions=False, standalone_mode=False)
    assert not (tmp_path / "s.safetensors").exists()


@pytest.mark.parametrize("prior", ["fused", "none"])
def test_settings_that_name_no_walk_take_the_students(prior: str) -> None:
    settings = load_settings(None, {"prior": prior})
    fitted = settings.fitted_to(DISTILLED)
    assert fitted.walk == OWN and fitted.tiling == settings.tiling
    assert (fitted.parameters["sampler"], fitted.parameters["steps"], fitted.parameters["start"]) == OWN
    assert settings.fitted_to(None) is settings


@pytest.mark.parametrize("named", [{"steps": 4}, {"sampler": "ddim"}, {"start": 400}])
def test_a_named_walk_is_refused_where_it_does_not_fit(named: dict[str, Any]) -> None:
    settings = load_settings(None, named)
    with pytest.raises(InvalidModelInput, match="leave out sampler, steps and start"):
        settings.fitted_to(DISTILLED)
    student = Enhancer(ModelCard(Preset.TINY, BANDS, 120.0, distilled=DISTILLED))
    with pytest.raises(InvalidModelInput, match="leave out sampler, steps and start"):
        settings.restoration.sampling.check(student)
    fitting = load_settings(None, {"steps": 1, "start": 200, "sampler": "ddim"}).fitted_to(DISTILLED)
    assert fitting.walk == ("ddim", 1, 200)
    fitting.restoration.sampling.check(student)


def test_units_of_a_student_are_those_of_its_walk() -> None:
    plain = load_settings(None, {"prior": "none"})
    items = open_source(str(sample_catalog())).search(plain.query)
    teacher = ModelRef("unveil-de", "1", "a" * 64, "weights")
    student = replace(teacher, distilled=DISTILLED)
    named = load_settings(None, {"prior": "none", "sampler": "dpmpp2m", "steps": 1, "start": 200})
    found = [
        {unit.work_id for unit in make_plan(items, settings, model).units}
        for settings, model in ((plain, teacher), (plain, student), (named, teacher))
    ]
    assert found[1] == found[2] and not found[0] & found[1]


def test_a_registered_student_is_resolved_with_its_walk_and_shown_with_its_teacher(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    version = registry.register(weights(tmp_path / "student.safetensors", DISTILLED))
    (listed,) = registry.versions(version.name)
    assert listed.tags["teacher_sha256"] == DISTILLED.teacher_sha256
    assert model_of(load_settings(None, {"state_dir": tmp_path}), registry, version).distilled == DISTILLED
    with pytest.raises(InvalidModelInput, match="not for steps=4 and start=None"):
        model_of(load_settings(None, {"state_dir": tmp_path, "steps": 4}), registry, version)


def test_what_is_calibrated_and_judged_walks_as_products_do(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = (ModelCard(Preset.TINY, BANDS, 120.0, distilled=d) for d in (DISTILLED, None))
    for sampling in (in_products(student).sampling, alone(student)):
        assert (sampling.sampler, sampling.steps, sampling.start) == OWN
    assert (alone(teacher).steps, alone(teacher).start, alone(teacher).tile) == (4, None, alone(student).tile)
    monkeypatch.setenv("UNVEIL_STEPS", "3")
    assert alone(teacher).steps == 3
    with pytest.raises(InvalidModelInput, match="distilled for 1 step"):
        alone(student)


def test_single_images_are_restored_by_the_students_walk_and_no_other(tmp_path: Path) -> None:
    path = weights(tmp_path / "student.safetensors", DISTILLED)
    profile = {"driver": "GTiff", "count": 4, "height": 40, "width": 40, "dtype": "uint16"}
    with rasterio.open(tmp_path / "cloudy.tif", "w", transform=Affine(10, 0, 0, 0, -10, 0), **profile) as scene:
        scene.write(np.full((4, 40, 40), 3000, np.uint16))
    command = ["predict", str(tmp_path / "cloudy.tif"), "--weights", str(path), "--out", str(tmp_path / "out")]
    options = ["--samples", "1", "--tile", "32", "--json"]
    done = CliRunner().invoke(app, [*command, *options], catch_exceptions=False)
    (record,) = json.loads(done.stdout)
    assert (record["sampling"]["sampler"], record["sampling"]["steps"], record["sampling"]["start"]) == OWN
    with pytest.raises(InvalidModelInput, match="distilled for 1 step"):
        CliRunner().invoke(app, [*command, *options, "--steps", "1"], catch_exceptions=False, standalone_mode=False)
