"""The archive teaches itself: clouds apart from ground, cases drawn alike by anyone, training that goes on exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from de_model.card import ModelCard
from de_model.data.archive import (
    Scene,
    SceneInfo,
    layer_of,
    matched,
    read_archive,
    write_archive,
)
from de_model.data.cases import CaseKind, CaseMixture, CaseSource, CaseStream
from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.presets import Preset
from de_model.scene.design import SceneDesign, SceneSizes
from de_model.scene.model import SceneNetworks
from de_model.scene.networks import IndependentPredictor, Inputs
from de_model.scene.observation import SceneClass
from de_model.scene.training import SceneTrainingOptions, fitted_share, train_scene
from de_model.training.course import Observer, Progress
from de_model.training.stages import Stage, StageOptions
from de_model.training.store import Store

SIZES = SceneSizes(reference=(8, 8, 8), predictor=(8, 8, 8), allocation=4, scales=(3, 8), dropout=0.1)
STAGES = tuple(
    StageOptions(stage, 6, 2, 64, 1, 1e-3) for stage in (Stage.REFERENCE, Stage.FINE, Stage.ALLOCATION, Stage.JOINT)
)
OPTIONS = SceneTrainingOptions(warmup=2, bfloat16=False)


def ground(seed: int, side: int = 128) -> NDArray[np.float32]:
    """Fields of different colour."""
    random = np.random.default_rng(seed)
    fields = random.uniform(0.5, 1.5, (4, 8, 8)).astype(np.float32)
    level = np.array([0.05, 0.08, 0.06, 0.3], np.float32)[:, None, None]
    return level * np.kron(fields, np.ones((1, side // 8, side // 8), np.float32))


def scenes() -> list[Scene]:
    """Three dates of one place, one of them cloudy, and a clear image of another place."""
    found = []
    for day in (0, 5, 10):
        image, classes = ground(1) * (1 + 0.02 * day), np.zeros((128, 128), np.uint8)
        if day == 5:
            classes[30:90, 20:100] = SceneClass.THICK
            image = np.where(classes == SceneClass.THICK, 0.4 * image + 0.36, image).astype(np.float32)
        found.append(Scene(SceneInfo(f"here-{day}", "here", "here", day, 10.0), image, classes))
    clear = Scene(SceneInfo("there", "there", "", 0, 10.0), ground(2), np.zeros((128, 128), np.uint8))
    return [*found, clear]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    write_archive(folder, scenes())
    return folder


def source(archive: Path, mixture: CaseMixture | None = None) -> CaseSource:
    return CaseSource(read_archive(archive), size=64, seed=3, mixture=mixture or CaseMixture(), window=128)


def test_an_archive_gives_back_its_scenes_and_leaves_out_places(archive: Path) -> None:
    before, after = scenes(), read_archive(archive)
    assert [scene.info for scene in after] == [scene.info for scene in sorted(before, key=lambda s: s.info.name)]
    assert np.allclose(after[0].image, before[0].image, atol=1e-4)
    assert {scene.info.place for scene in read_archive(archive, without=["here"])} == {"there"}
    with pytest.raises(InvalidModelInput, match="prepare it first"):
        read_archive(archive, only=["nowhere"])
    with pytest.raises(InvalidModelInput, match=r"Place Here is to be held out.*it holds here, there\."):
        read_archive(archive, without=["Here"])


def test_the_fingerprint_of_an_archive_sees_pixels_and_classes(tmp_path: Path) -> None:
    clear = scenes()[-1]
    darker, masked = replace(clear, image=clear.image / 2), replace(clear, classes=np.full_like(clear.classes, 1))
    assert len({write_archive(tmp_path, [scene]) for scene in (clear, darker, masked)}) == 3
    assert write_archive(tmp_path, [clear]) == write_archive(tmp_path, [clear])


def test_a_cloud_is_taken_off_its_ground_and_laid_back(archive: Path) -> None:
    cloudy = next(scene for scene in read_archive(archive) if scene.info.name == "here-5")
    assert cloudy.layer is not None
    layer, inside = cloudy.layer, np.s_[40:80, 30:90]
    again = layer.path + (1 - layer.opacity) * ground(1) * 1.1
    assert np.abs(again - cloudy.image)[:, *inside].mean() < 0.03
    assert layer.opacity[inside].mean() == pytest.approx(0.6, abs=0.12)
    assert (layer.opacity[:10] == 0).all()
    assert layer_of(scenes()[0], None) is None


def test_another_date_is_matched_by_its_clear_ground() -> None:
    there, here = ground(4), 1.3 * ground(4) + 0.02
    assert np.allclose(matched(there, here, np.ones((128, 128), bool)), here, atol=2e-3)


def test_a_case_depends_on_its_number_alone(archive: Path) -> None:
    first, again = source(archive), source(archive)
    for number in (5, 2, 9):
        one, two = first.case(number), again.case(number)
        assert np.array_equal(one.maps, two.maps) and np.array_equal(one.truth, two.truth)
    assert not np.array_equal(first.case(1).maps, first.case(2).maps)


def test_cases_hide_what_they_ask_for_and_know_the_truth_of_the_rest(archive: Path) -> None:
    drawn = source(archive, CaseMixture(transplant=0, gap=1, pair=0, with_dates=0, invented_dates=0))
    for number in range(6):
        case = drawn.case(number)
        clear = case.maps[4] > 0
        assert case.kind is CaseKind.GAP and case.wanted.mean() > 0.05
        assert np.allclose(case.maps[:4, clear & case.valid], case.truth[:, clear & case.valid], atol=1e-4)
        assert (case.maps[:4, case.maps[6] > 0] == 0).all(), "what is hidden is not among the inputs"


def test_other_dates_come_as_composite_with_its_real_errors(archive: Path) -> None:
    drawn = source(archive, CaseMixture(transplant=0, gap=1, pair=0, with_dates=1, invented_dates=0))
    cases = [drawn.case(number) for number in range(12)]
    dated = [case for case in cases if case.maps[12].any()]
    assert dated
    for case in dated:
        seen = case.wanted & (case.maps[12] > 0)
        error = np.abs(case.maps[8:12] - case.truth)[:, seen].mean()
        assert error < 0.3, "dates of the same fields agree once their light is matched"


def test_a_pair_shows_the_ground_below_real_clouds_in_the_light_of_their_date(archive: Path) -> None:
    drawn = source(archive, CaseMixture(transplant=0, gap=0, pair=1))
    assert [(pair.cloudy.info.name, pair.clear.info.name) for pair in drawn.pairs] == [
        ("here-5", "here-0"), ("here-5", "here-10")
    ]  # fmt: skip
    for pair in drawn.pairs:
        assert np.allclose(pair.truth, 1.1 * ground(1), atol=3e-3)
    case = drawn.case(0)
    clear, cloud = case.maps[4] > 0, case.maps[5] + case.maps[6] > 0
    assert case.kind is CaseKind.PAIR and case.wanted.any() and not (case.wanted & ~cloud).any()
    # A mask may be smaller than its cloud, whose rim then counts as clear.
    agree = np.isclose(case.maps[:4], case.truth, atol=0.1).all(axis=0)
    assert agree[clear].mean() > 0.8


def data(archive: Path, workers: int = 0) -> CaseStream:
    return CaseStream(source(archive), workers)


def model() -> Enhancer:
    torch.manual_seed(0)
    return Enhancer(ModelCard(Preset.TINY, ("blue", "green", "red", "nir"), 10.0, scene=SceneDesign(SIZES)))


def networks() -> SceneNetworks:
    found = model().scene
    assert found is not None
    return found


class Stopped(Exception):
    """A training that is killed."""


class Stopping(Observer):
    """Kills a training at a step of a stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def on_step(self, progress: Progress) -> None:
        if progress.stage is self.stage and progress.step == 5:
            raise Stopped


def trained(folder: Path, cases: CaseStream, observers: Sequence[Observer] = ()) -> dict[str, torch.Tensor]:
    made, store = model(), Store(folder, {"options": str(OPTIONS)})
    train_scene(made, [(stage, cases) for stage in STAGES], OPTIONS, store, save_every=2, observers=observers)
    return made.state_dict()


@pytest.mark.parametrize("stage", [stage.stage for stage in STAGES])
def test_a_stopped_training_ends_with_the_same_weights(archive: Path, tmp_path: Path, stage: Stage) -> None:
    cases = data(archive)
    expected = trained(tmp_path / "straight", cases)
    with pytest.raises(Stopped):
        trained(tmp_path / "halting", cases, [Stopping(stage)])
    found = trained(tmp_path / "halting", cases)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not torch.equal(
        expected["scene.reference.net.head.weight"], model().state_dict()["scene.reference.net.head.weight"]
    )


def test_the_joint_stage_trains_the_last_layers_and_leaves_reference_and_trunk(archive: Path, tmp_path: Path) -> None:
    made = model()
    train_scene(made, [(STAGES[0], data(archive)), (STAGES[1], data(archive))], OPTIONS)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    train_scene(made, [(replace(STAGES[3], steps=3), data(archive))], OPTIONS)
    changed = {name for name, value in made.state_dict().items() if not torch.equal(value, before[name])}
    assert "scene.predictor.net.head.weight" in changed and "scene.allocation.head.weight" in changed
    assert all(name.startswith(("scene.predictor", "scene.allocation")) for name in changed)
    assert not any(".encode." in name or ".middle." in name or ".decode." in name for name in changed)


def test_stages_and_models_of_the_first_edition_are_refused(archive: Path) -> None:
    coarse = StageOptions(Stage.COARSE, 1, 2, 64, 1, 1e-3)
    with pytest.raises(InvalidModelInput, match="coarse belongs to the first edition"):
        train_scene(model(), [(coarse, data(archive))], OPTIONS)
    with pytest.raises(InvalidModelInput, match="train it on pairs"):
        train_scene(Enhancer(ModelCard(Preset.TINY, ("red",), 10.0)), [(STAGES[0], data(archive))], OPTIONS)


def test_batches_are_the_same_whoever_draws_them_and_no_case_comes_twice(archive: Path) -> None:
    straight = list(data(archive).batches(0, 6, 2))
    resumed = list(data(archive, workers=2).batches(3, 6, 2))
    for one, two in zip(straight[3:], resumed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    cases = torch.cat([batch.truth.square().sum(dim=(1, 2, 3)) for batch in straight])
    assert len({round(float(value), 2) for value in cases}) == 12


def test_an_independent_diffusion_begins_at_the_reference_that_was_trained() -> None:
    made = networks()
    for parameter in made.reference.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    batch = Inputs(torch.rand(1, 19, 32, 32).round(decimals=1), torch.rand(1, 11), 4)
    assert isinstance(made.predictor, IndependentPredictor)
    made.predictor.begin_at(made.reference)
    made.eval()
    t = torch.tensor([900])
    with torch.no_grad():
        found = made.predicted(torch.randn(1, 4, 32, 32), batch, None, t)
        assert torch.allclose(found.mean, made.reference(batch).mean, atol=1e-5)
        made.predictor.corrected.weight.add_(0.1)
        before = {name: value.clone() for name, value in made.predictor.state_dict().items()}
        made.reference.net.stem.weight.add_(0.1)
        made.predictor.begin_at(made.reference)
    assert all(torch.equal(value, before[name]) for name, value in made.predictor.state_dict().items())


def test_training_makes_the_reference_better(archive: Path) -> None:
    losses: list[float] = []

    class Note(Observer):
        def on_step(self, progress: Progress) -> None:
            losses.append(progress.losses["loss"])
            assert 0 < progress.waiting < 1

    stage = StageOptions(Stage.REFERENCE, 60, 4, 64, 1, 3e-3)
    train_scene(model(), [(stage, data(archive))], OPTIONS, observers=[Note()])
    assert np.mean(losses[-15:]) < np.mean(losses[:15])


def test_w_is_drawn_to_the_estimate_that_errs_less(archive: Path) -> None:
    cases, found = data(archive), networks()
    found.eval().requires_grad_(False)
    for bias, higher in ((3.0, True), (-3.0, False)):
        worse, better = (found.predictor, found.reference) if higher else (found.reference, found.predictor)
        for network, shift in ((worse, bias), (better, 0.0)):
            head, first = network.net.head.bias, 4 * (network.candidates + 1)
            head.zero_()
            head[first : first + 4] = shift
        _, added = fitted_share(found, cases, 3, 2, 200)
        assert (added > 0.4) if higher else (added < -0.4)
