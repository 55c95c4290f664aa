"""Distilling a student: what is learnt from whom, and that a stop changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.samplers.ddim import ddim_step
from de_model.training.objective import Batch, Objective, draw
from de_model.training.options import TrainingOptions
from de_model.training.parallel import World
from de_model.training.sources import PairData
from de_model.training.stage_run import StageRun
from de_model.training.stages import MAKING, Stage, StageOptions
from de_model.training.store import Store
from de_model.training.trainer import Observer, Progress, train
from de_model.training.validation import Restored, Validation, restored
from de_model.weighting import WeightMode
from tests.unit.de_model.training_case import data, identity, pair, tiny

DISTIL = StageOptions(Stage.DISTIL, 5, 2, 16, 1, 1e-3)


def stirred(seed: int = 0) -> Enhancer:
    """A model whose outputs are not zero: nothing can be learnt from one that answers with its reference."""
    model = tiny(seed)
    model.card = replace(model.card, weight_mode=WeightMode.BOUNDED)
    for parameter in (*model.predictor.parameters(), *model.allocation.parameters()):
        nn.init.normal_(parameter, std=0.08)
    return model


def batch(count: int = 4) -> Batch:
    options = replace(DISTIL, batch=count)
    return draw(data().source(options, 0), options, 0, 0, 1000)


def test_a_student_comes_nearer_to_its_teacher_which_stays_as_it_is() -> None:
    model, losses = stirred(), list[float]()
    options = replace(DISTIL, steps=20, learning_rate=1e-2)
    run = StageRun(model, options, TrainingOptions(), World())
    teacher = run.loss.teacher
    assert teacher is not None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    source = data().source(options, 0)
    for step in range(options.steps):
        losses.append(run.advance(draw(source, options, step, 0, 1000))["teacher"])
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in before.items())
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"predictor", "allocation"}
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_the_loss_is_the_distance_of_one_step_from_four_over_every_pixel() -> None:
    """Both walks are written out here in the form of DDIM and of Lu et al. 2022."""
    model, found = stirred(), batch(2)
    condition, schedule, eta = model.condition(found.patches.cloudy), model.schedule, model.card.eta

    def estimate(x: torch.Tensor, t: int) -> torch.Tensor:
        return model.estimate(x, condition, torch.full((2,), t), eta).fused

    with torch.no_grad():
        state, before, levels = found.eps, None, {t: schedule.level(t) for t in (750, 500, 250, 0)}
        for t, following in ((750, 500), (500, 250), (250, 0)):
            data_here = estimate(state, t)
            used = data_here
            if before is not None:
                h = levels[following].log_ratio - levels[t].log_ratio
                ratio = (levels[t].log_ratio - levels[t + 250].log_ratio) / h
                used = (1 + 1 / (2 * ratio)) * data_here - before / (2 * ratio)
            state, before = ddim_step(schedule, state, used, t, following), data_here
        target = estimate(state, 0)
        noised = schedule.add_noise(condition.reference, found.eps, torch.full((2,), 200))
        expected = (estimate(noised, 200) - target).square().mean()
        term = Objective(model, Stage.DISTIL, TrainingOptions())(found)["teacher"]
    assert expected > 1e-6 and term.item() == pytest.approx(expected.item(), rel=1e-3)

    patches = found.patches
    without_truth = found._replace(patches=replace(patches, valid=torch.zeros_like(patches.valid)))
    with torch.no_grad():
        assert Objective(model, Stage.DISTIL, TrainingOptions())(without_truth)["teacher"] == term


class Stopped(Exception):
    pass


class StopAt(Observer):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, progress: Progress) -> None:
        if progress.step == self.step:
            raise Stopped


@pytest.mark.parametrize("step", [1, 4])
def test_a_student_stopped_on_the_way_ends_with_the_same_bits(tmp_path: Path, step: int) -> None:
    whole = stirred()
    train(whole, data(), [DISTIL])
    with pytest.raises(Stopped):
        train(stirred(), data(), [DISTIL], store=Store(tmp_path, identity()), save_every=2, observers=[StopAt(step)])
    resumed = stirred()
    train(resumed, data(), [DISTIL], store=Store(tmp_path, identity()), save_every=2)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


class Look(Observer):
    scores: dict[str, float]
    images: Restored

    def on_validation(self, stage: Stage, step: int, scores: dict[str, float]) -> None:
        self.scores = scores

    def on_samples(self, stage: Stage, step: int, images: Restored) -> None:
        self.images = images


def test_what_is_looked_at_is_the_students_one_step() -> None:
    model, look = stirred(), Look()
    validation = Validation(PairData([pair(2)]), patches=2)
    train(model, data(), [replace(DISTIL, steps=2)], validation=validation, observers=[look])
    assert {"teacher", "psnr"} <= set(look.scores)
    reference, student = look.images.parts
    found = batch(2)
    with torch.no_grad():
        condition = model.condition(found.patches.cloudy)
        noised = model.schedule.add_noise(condition.reference, found.eps, torch.full((2,), 200))
        expected = model.estimate(noised, condition, torch.full((2,), 200), model.card.eta).fused
    assert torch.equal(restored(model, Stage.DISTIL, found).image, model.finish(expected))
    assert reference.shape == student.shape == (2, 2, 16, 16)


def test_a_schedule_too_short_for_the_students_start_is_refused() -> None:
    model = tiny()
    model.schedule.timesteps = 150
    with pytest.raises(InvalidModelInput, match="Start at timestep 200"):
        train(model, data(), [DISTIL])


#: First noise value, timesteps and seeds at seed 3, step 7, as they were before there was a stage `distil`.
DRAWN = {
    Stage.REFERENCE: (0.2670327425003052, [248, 813], [56969506, 832417434]),
    Stage.COARSE: (-0.02080450765788555, [160, 52], [1281735694, 228875988]),
    Stage.FINE: (0.8792331218719482, [782, 578], [543074684, 453543939]),
    Stage.ALLOCATION: (-0.46711188554763794, [872, 738], [249394160, 77184417]),
    Stage.JOINT: (-0.9564257860183716, [432, 148], [1783130881, 760174044]),
}


@pytest.mark.parametrize("stage", MAKING)
def test_the_stages_before_draw_what_they_always_drew(stage: Stage) -> None:
    options = StageOptions(stage, 1, 2, 16, 1, 1e-3)
    found = draw(data().source(options, 3), options, 7, 3, 1000)
    assert (found.eps.flatten()[0].item(), found.t.tolist(), found.seeds.tolist()) == DRAWN[stage]
