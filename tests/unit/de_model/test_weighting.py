"""W, the reference's share, in both modes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.presets import Preset
from de_model.training.objective import enhancement_loss
from de_model.weighting import WeightMode, limit
from tests.unit.de_model.training_case import batch_of

RAW = torch.linspace(-60, 60, 241)


@pytest.mark.parametrize("mode", WeightMode)
@given(eta=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_weight_lies_between_eta_and_one_and_follows_the_raw_value(mode: WeightMode, eta: float) -> None:
    weight = limit(RAW, eta, mode)
    assert weight.min() >= torch.tensor(eta) - 1e-7 and weight.max() <= 1
    assert (weight.diff() >= 0).all()


@pytest.mark.parametrize("mode", WeightMode)
def test_eta_one_gives_exactly_one(mode: WeightMode) -> None:
    assert torch.equal(limit(RAW, 1.0, mode), torch.ones_like(RAW))


def test_bounded_weights_learn_where_clamped_ones_would_not() -> None:
    raw = torch.tensor([-1.0, 2.0], requires_grad=True)
    limit(raw, 0.3, WeightMode.CLAMP).sum().backward()
    assert raw.grad is not None and raw.grad.abs().max() == 0
    raw.grad = None
    limit(raw, 0.3, WeightMode.BOUNDED).sum().backward()
    assert raw.grad is not None and raw.grad.abs().min() > 0


def test_the_card_decides_for_inference_and_for_the_loss() -> None:
    torch.manual_seed(0)
    card = ModelCard(Preset.TINY, ("red", "nir"), 10.0)
    clamped, bounded = Enhancer(card).eval(), Enhancer(dataclasses.replace(card, weight_mode=WeightMode.BOUNDED)).eval()
    bounded.load_state_dict(clamped.state_dict())
    x0, eps, t = torch.rand(1, 2, 16, 16) * 2 - 1, torch.randn(1, 2, 16, 16), torch.tensor([300])
    condition = clamped.condition(torch.rand(1, 2, 16, 16))
    # At its zero start the allocation returns 0: W is eta when clamped, the middle of [eta, 1] when bounded.
    assert torch.all(clamped.estimate(eps, condition, t, 0.3).weight == 0.3)
    assert torch.allclose(bounded.estimate(eps, condition, t, 0.3).weight, torch.tensor(0.65))
    valid = torch.ones(1, 1, 16, 16)
    x0_hat = clamped.estimate(clamped.schedule.add_noise(x0, eps, t), condition, t, 0.0).x0_hat
    for model, weight in ((clamped, 0.0), (bounded, 0.65)):
        expected = (x0 - (1 - weight) * x0_hat - weight * condition.reference).abs().mean()
        loss = enhancement_loss(model, condition, batch_of(x0, valid, eps, t))
        assert loss.fusion.item() == pytest.approx(expected.item(), 1e-5)
