"""Training on pairs: losses, patches, moving average, stages, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from de_model.data.pairs import PairData, Patches, PatchSampler, ScenePair
from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput, TrainingFailed
from de_model.presets import Preset
from de_model.radiometry import from_unit, to_signed, to_unit
from de_model.training.course import Observer, Progress, StageResult
from de_model.training.objective import (
    Batch,
    Objective,
    charbonnier,
    draw,
    edge_charbonnier,
    enhancement_loss,
)
from de_model.training.stage_run import MovingAverage, Restored, Validation
from de_model.training.stages import Stage, StageOptions, schedule_for
from de_model.training.trainer import train
from tests.unit.de_model.training_case import batch_of, data, pair, tiny


def test_companding_is_invertible_and_monotone() -> None:
    reflectance = torch.linspace(0, 1, 101)
    assert torch.allclose(from_unit(to_unit(reflectance)), reflectance, atol=1e-6)
    assert (to_unit(reflectance).diff() > 0).all()
    assert to_signed(to_unit(torch.tensor([-0.1, 1.7]))).tolist() == [-1.0, 1.0]


def test_patches_are_aligned_and_hold_clouds() -> None:
    batch = PatchSampler([pair()], 32).batch(0, 16)
    clear_ground = ((batch.obscured == 0) & (batch.valid == 1)).expand_as(batch.cloudy)
    assert (batch.cloudy - batch.clear)[clear_ground].abs().max() < 0.25
    assert (batch.obscured * batch.valid).flatten(1).mean(1).min() >= 0.05
    assert torch.isfinite(batch.cloudy).all()


def test_coarse_patches_count_only_cells_with_full_truth() -> None:
    batch = PatchSampler([pair(size=64)], 16, downscale=4).batch(0, 4)
    assert batch.cloudy.shape == (4, 2, 16, 16)
    assert set(batch.valid.unique().tolist()) == {0.0, 1.0}
    assert batch.valid.flatten(1).sum(1).tolist() == [255.0] * 4


def test_unusable_pairs_are_named() -> None:
    with pytest.raises(TrainingFailed, match="need 128 px"):
        PatchSampler([pair()], 32, downscale=4)
    clear = ScenePair("clear", pair().cloudy, pair().clear, pair().valid, np.zeros((96, 96), bool))
    with pytest.raises(TrainingFailed, match="too little cloud"):
        PatchSampler([clear], 32).batch(0, 1)


def test_gradients_are_separate() -> None:
    """L_eps reaches the predictor alone, L_W the allocation alone (DE section 1.7)."""
    model = tiny()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x0, valid = torch.rand(2, 2, 16, 16), torch.ones(2, 1, 16, 16)
    condition = model.condition(torch.rand(2, 2, 16, 16))
    for term, own, foreign in (
        ("noise", model.predictor, model.allocation),
        ("fusion", model.allocation, model.predictor),
    ):
        model.zero_grad()
        loss = enhancement_loss(model, condition, batch_of(x0, valid, torch.randn_like(x0), torch.tensor([10, 700])))
        getattr(loss, term).backward()
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in own.parameters())
        assert all(p.grad is None or p.grad.abs().max() == 0 for p in foreign.parameters())
        assert all(p.grad is None for p in model.reference.parameters())


def test_moving_average_follows_and_is_put_back() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(0.0)
    average = MovingAverage(layer, rate=0.5)
    layer.weight.data.fill_(1.0)
    for _ in range(20):
        average.update(layer)
    layer.weight.data.fill_(9.0)
    average.copy_to(layer)
    assert layer.weight.item() == pytest.approx(1.0, abs=1e-4)


def test_stages_train_what_they_say_and_nothing_else() -> None:
    model = tiny()
    parts = {"reference": model.reference, "predictor": model.predictor, "allocation": model.allocation}
    expected = {
        Stage.REFERENCE: {"reference"},
        Stage.COARSE: {"predictor"},
        Stage.FINE: {"predictor"},
        Stage.ALLOCATION: {"allocation"},
        Stage.JOINT: {"predictor", "allocation"},
    }
    for stage, names in expected.items():
        before = {n: [p.clone() for p in m.parameters()] for n, m in parts.items()}
        train(model, PairData([pair()]), [StageOptions(stage, 2, 2, 32, 1, 1e-3)])
        changed = {
            n
            for n, m in parts.items()
            if any(not torch.equal(a, b) for a, b in zip(before[n], m.parameters(), strict=True))
        }
        assert changed == names


def test_training_is_reproducible_and_learns() -> None:
    losses: list[float] = []

    class Note(Observer):
        def on_step(self, progress: Progress) -> None:
            losses.append(progress.losses["charbonnier"])

    models, data = [tiny(), tiny()], PairData([pair(0), pair(1)])
    for model in models:
        train(model, data, [StageOptions(Stage.REFERENCE, 60, 4, 32, 1, 3e-3)], observers=[Note()])
    assert losses[:60] == losses[60:]
    assert np.mean(losses[50:60]) < 0.5 * np.mean(losses[:5])
    states = [m.state_dict() for m in models]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_exploding_loss_is_reported() -> None:
    model = tiny()
    model.reference.stem.weight.data.fill_(float("nan"))
    with pytest.raises(TrainingFailed, match="learning rate"):
        train(model, PairData([pair()]), [StageOptions(Stage.REFERENCE, 1, 2, 32, 1, 1e-3)])


@pytest.mark.parametrize("preset", list(Preset))
def test_schedules_run_from_coarse_to_fine(preset: Preset) -> None:
    stages = schedule_for(preset, 1e-9)
    assert [s.stage for s in stages] == list(Stage)
    assert all(s.steps == 1 for s in stages)


class ThreeOutputs(nn.Module):
    """Supervised at three depths, as MPRNet is."""

    stride = 8

    def __init__(self, offsets: Sequence[float]) -> None:
        super().__init__()
        self.offsets = nn.Parameter(torch.tensor(offsets))

    def training_outputs(self, cloudy: Tensor) -> list[Tensor]:
        return [cloudy + offset for offset in self.offsets]


def batch(stage: Stage, count: int = 4) -> Batch:
    options = StageOptions(stage, 1, count, 16, 1, 1e-3)
    return draw(data().source(options, 0), options, 0, 0, 1000)


def stirred() -> Enhancer:
    """A model whose outputs are not zero."""
    model = tiny()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model


@pytest.mark.parametrize("bands", [1, 3, 7])
def test_the_edge_loss_takes_any_number_of_bands_and_ignores_what_has_no_truth(bands: int) -> None:
    truth, valid = torch.rand(2, bands, 16, 16), torch.ones(2, 1, 16, 16)
    assert edge_charbonnier(truth, truth, valid).item() == pytest.approx(1e-3, rel=1e-3)
    estimate = truth.clone()
    estimate[..., 3, 3], valid[..., 3, 3] = 1e6, 0
    assert edge_charbonnier(estimate, truth, valid).item() == pytest.approx(1e-3, rel=1e-3)
    noisy = truth + 0.1 * torch.randn_like(truth)
    assert edge_charbonnier(noisy, truth, valid).item() > 0.05


def test_every_output_of_a_reference_is_supervised() -> None:
    model, found = tiny(), batch(Stage.REFERENCE)
    model.reference = ThreeOutputs([0.0, 0.2, 0.5])  # type: ignore[assignment] # any reference will do
    patches = found.patches
    terms = Objective(model, Stage.REFERENCE)(found)
    outputs = [patches.cloudy + offset for offset in (0.0, 0.2, 0.5)]
    smooth = sum(charbonnier(o, patches.clear, patches.valid).item() for o in outputs)
    edges = sum(edge_charbonnier(o, patches.clear, patches.valid).item() for o in outputs)
    assert terms["charbonnier"].item() == pytest.approx(smooth, rel=1e-5)
    assert terms["edge"].item() == pytest.approx(0.05 * edges, rel=1e-5)


@pytest.mark.parametrize("stage", list(Stage))
def test_shares_of_a_batch_add_up_to_the_whole(stage: Stage) -> None:
    whole, objective = batch(stage, 5), Objective(stirred(), stage)
    with torch.no_grad():
        together = objective(whole)
        parts = [objective(share) for share in whole.shares(3)]
    for name, value in together.items():
        assert sum(part[name].item() for part in parts) == pytest.approx(value.item(), rel=1e-5)


ONE = StageOptions(Stage.REFERENCE, 1, 2, 16, 1, 1e-3)


@pytest.mark.parametrize("image", ["cloudy", "clear"])
def test_a_pair_that_is_not_finite_where_it_is_valid_is_named(image: str) -> None:
    bad = pair(1)
    getattr(bad, image)[0, 40, 50] = np.nan
    with pytest.raises(InvalidModelInput, match=f"pair 1: the {image} image is not finite on 1 pixels"):
        PairData([pair(0), bad])


def test_no_pair_and_pairs_of_different_shape_are_refused() -> None:
    with pytest.raises(TrainingFailed, match="No cloudy/clear pair"):
        PairData([])
    with pytest.raises(InvalidModelInput, match="every image must be"):
        PairData([replace(pair(), cloudy=pair().cloudy[:1])])


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (replace(ONE, patch=128), r"Patches need 128 px, the smallest pair \(pair 0\) has 96 px; leave it out"),
        (replace(ONE, patch=20), "use a multiple of 8 px"),
        (replace(ONE, steps=0), "at least one step"),
    ],
)
def test_stages_that_cannot_run_are_refused_before_anything_is_trained(stage: StageOptions, message: str) -> None:
    model = tiny()
    before = [p.clone() for p in model.reference.parameters()]
    with pytest.raises((TrainingFailed, InvalidModelInput), match=message):
        train(model, data(), [ONE, stage])
    assert all(torch.equal(a, b) for a, b in zip(before, model.reference.parameters(), strict=True))


def test_data_of_other_bands_are_refused() -> None:
    one_band = replace(pair(), cloudy=pair().cloudy[:1], clear=pair().clear[:1])
    with pytest.raises(InvalidModelInput, match="1 bands, the model has 2"):
        train(tiny(), PairData([one_band]), [ONE])


class SometimesBad(PairData):
    """Gives patches whose truth is not finite on chosen steps."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__([pair()])
        self.bad = bad

    def source(self, stage: StageOptions, seed: int) -> PatchSampler:
        sampler, bad = super().source(stage, seed), self.bad
        batch = sampler.batch

        def spoiled(step: int, count: int) -> Patches:
            found = batch(step, count)
            return replace(found, clear=found.clear * torch.inf) if step in bad else found

        sampler.batch = spoiled  # type: ignore[method-assign]
        return sampler


def test_a_gradient_that_is_not_finite_is_skipped_and_counted() -> None:
    model, seen = tiny(), list[Progress]()

    class Note(Observer):
        def on_step(self, progress: Progress) -> None:
            seen.append(progress)

    stage = replace(ONE, steps=6, patch=32)
    result = train(model, SometimesBad({1, 2, 4}), [stage], observers=[Note()])
    assert [p.skipped for p in seen] == [0, 1, 2, 2, 3, 3] and result[0].skipped == 3
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_too_many_bad_gradients_in_a_row_end_the_training() -> None:
    with pytest.raises(TrainingFailed, match="20 gradients in a row up to step 22"):
        train(tiny(), SometimesBad(set(range(2, 40))), [replace(ONE, steps=50, patch=32)])


LITTLE_MEMORY = """
import resource, sys, torch
from tests.unit.de_model.training_case import data, tiny
from de_model.errors import TrainingFailed
from de_model.training.stages import Stage, StageOptions
from de_model.training.trainer import train
model, pairs = tiny(), data()
train(model, pairs, [StageOptions(Stage.FINE, 1, 2, 16, 1, 1e-3)])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, resource.RLIM_INFINITY))
try:
    train(model, pairs, [StageOptions(Stage.FINE, 1, 64, 64, 1, 1e-3)])
except TrainingFailed as error:
    print(error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits its own memory through Linux' /proc")
def test_a_lack_of_memory_is_reported_with_the_remedy() -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", LITTLE_MEMORY],
        env={"PYTHONPATH": f"{here}:{here.parents[2]}", "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert "Out of memory in stage fine with 64 patches of 64 px; halve --batch (to 32)" in done.stdout, done.stderr


class Notes(Observer):
    def __init__(self) -> None:
        self.scores: list[tuple[Stage, int, dict[str, float]]] = []
        self.images: dict[Stage, Restored] = {}
        self.ends: list[StageResult] = []

    def on_validation(self, stage: Stage, step: int, scores: dict[str, float]) -> None:
        self.scores.append((stage, step, scores))

    def on_samples(self, stage: Stage, step: int, images: Restored) -> None:
        self.images[stage] = images

    def on_stage_end(self, result: StageResult) -> None:
        self.ends.append(result)


def test_validation_looks_on_without_touching_the_training() -> None:
    stages = [StageOptions(s, 4, 2, 16, 1, 1e-3) for s in (Stage.REFERENCE, Stage.FINE, Stage.JOINT)]
    models, notes = [tiny(), tiny()], Notes()
    train(models[0], data(), stages)
    validation = Validation(PairData([pair(9)]), every=2, patches=2, sampling_steps=2)
    train(models[1], data(), stages, validation=validation, observers=[notes])
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert [(stage, step) for stage, step, _ in notes.scores] == [(s.stage, n) for s in stages for n in (2, 4)]
    assert set(notes.scores[-1][2]) == {"noise", "fusion", "psnr", "psnr_hidden"}
    assert [result.validation for result in notes.ends] == [notes.scores[i][2] for i in (1, 3, 5)]
