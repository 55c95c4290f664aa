"""Training: losses, patches, moving average, stages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from de_model.data.pairs import PairData, PatchSampler, ScenePair
from de_model.errors import InvalidModelInput, TrainingFailed
from de_model.presets import Preset
from de_model.radiometry import from_unit, to_signed, to_unit
from de_model.training.course import Observer, Progress
from de_model.training.objective import enhancement_loss, masked_mean
from de_model.training.stage_run import MovingAverage
from de_model.training.stages import Stage, StageOptions, schedule_for
from de_model.training.trainer import train
from tests.unit.de_model.training_case import batch_of, pair, tiny


def test_companding_is_invertible_and_monotone() -> None:
    reflectance = torch.linspace(0, 1, 101)
    assert torch.allclose(from_unit(to_unit(reflectance)), reflectance, atol=1e-6)
    assert (to_unit(reflectance).diff() > 0).all()
    assert to_signed(to_unit(torch.tensor([-0.1, 1.7]))).tolist() == [-1.0, 1.0]


def test_patches_depend_on_seed_and_step_alone() -> None:
    first, second = (PatchSampler([pair(0), pair(1)], 32, seed=5) for _ in range(2))
    a, b, other = first.batch(17, 4), second.batch(17, 4), first.batch(18, 4)
    assert torch.equal(a.cloudy, b.cloudy) and torch.equal(a.clear, b.clear)
    assert not torch.equal(a.cloudy, other.cloudy)


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


def test_fingerprint_sees_every_pixel() -> None:
    changed = pair()
    changed.clear[0, 50, 50] += 1e-3
    first, again, other = (PairData([each]).fingerprint for each in (pair(), pair(), changed))
    assert first == again != other


def test_masked_mean_ignores_what_has_no_truth() -> None:
    values, valid = torch.ones(1, 2, 4, 4), torch.ones(1, 1, 4, 4)
    values[..., 0, 0], valid[..., 0, 0] = 1e6, 0
    assert masked_mean(values, valid).item() == 1
    with pytest.raises(InvalidModelInput, match="valid pixel"):
        masked_mean(values, torch.zeros_like(valid))


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
