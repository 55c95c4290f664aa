"""The diffusion process: schedule, fusion and the DDIM walk."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from de_model.card import ModelCard
from de_model.enhancer import Enhancer, Estimate
from de_model.errors import InvalidModelInput
from de_model.presets import Preset
from de_model.samplers import ddim
from de_model.schedule import Schedule

BANDS = ("blue", "green", "red", "nir")


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    """A tiny model whose every weight matters: nothing is left at its zero start."""
    torch.manual_seed(1)
    model = Enhancer(ModelCard(Preset.TINY, BANDS, 10.0)).eval().requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    return model


def test_schedule_has_the_published_values() -> None:
    abar = Schedule().abar
    assert abar[900].item() == pytest.approx(2.70e-4, rel=5e-3)
    assert abar[999].item() == pytest.approx(4.04e-5, rel=5e-3)
    assert abar[0].item() == pytest.approx(1 - 1e-4)
    assert (abar.diff() < 0).all()


def test_respacing_feeds_the_original_indices() -> None:
    assert Schedule().respaced(10).tolist() == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    with pytest.raises(InvalidModelInput, match="1 to 1000"):
        Schedule().respaced(0)


@given(t=st.integers(0, 999), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_noise_and_image_determine_each_other(t: int, seed: int) -> None:
    schedule, random = Schedule(), torch.Generator().manual_seed(seed)
    x0 = torch.rand(1, 2, 4, 4, generator=random, dtype=torch.float64) * 2 - 1
    eps, step = torch.randn(x0.shape, generator=random, dtype=torch.float64), torch.tensor([t])
    x_t = schedule.add_noise(x0, eps, step)
    assert torch.allclose(schedule.estimate_x0(x_t, eps, step), x0, atol=1e-6)
    assert torch.allclose(schedule.noise_given_x0(x_t, x0, step), eps, atol=1e-6)


def test_ddim_with_the_truth_as_estimate_returns_the_truth() -> None:
    truth, noise = torch.rand(1, 2, 8, 8), torch.randn(1, 2, 8, 8)
    walked = ddim(lambda _x, _t: Estimate(truth, truth, truth), noise, Schedule(), 7)
    assert torch.equal(walked.image, truth)


def test_ddim_rederives_the_noise_from_the_fused_estimate() -> None:
    """Against the update written out in float64 (DE section 1.6)."""
    schedule, states = Schedule(), []
    noise = torch.randn(1, 1, 4, 4, dtype=torch.float64)

    def estimate(x_t: torch.Tensor, t: torch.Tensor) -> Estimate:
        states.append(x_t)
        fused = 0.4 * x_t.clamp(-1, 1) + 0.1
        return Estimate(fused, fused, fused)

    ddim(estimate, noise, schedule, 10)
    a, b = schedule.abar[900], schedule.abar[800]
    fused = 0.4 * noise.clamp(-1, 1) + 0.1
    eps = (noise / a.sqrt() - fused) / (1 / a - 1).sqrt()
    assert torch.allclose(states[1], b.sqrt() * fused + (1 - b).sqrt() * eps, atol=1e-10)


def walk(enhancer: Enhancer, eta: float, cloudy: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    condition = enhancer.condition(cloudy)
    return ddim(lambda x, t: enhancer.estimate(x, condition, t, eta), noise, enhancer.schedule, 5).image


def test_eta_one_returns_the_reference_exactly(enhancer: Enhancer) -> None:
    cloudy, noise = torch.rand(2, 4, 16, 16), torch.randn(2, 4, 16, 16)
    assert torch.equal(walk(enhancer, 1.0, cloudy, noise), enhancer.condition(cloudy).reference)


def test_larger_eta_draws_the_result_to_the_reference(enhancer: Enhancer) -> None:
    cloudy, noise = torch.rand(1, 4, 32, 32), torch.randn(1, 4, 32, 32)
    reference = enhancer.condition(cloudy).reference
    distance = [
        (walk(enhancer, eta, cloudy, noise) - reference).abs().mean().item() for eta in (0.0, 0.3, 0.6, 0.9, 1.0)
    ]
    assert distance == sorted(distance, reverse=True)
    assert distance[0] > 0


def test_weight_is_limited_and_fusion_stays_in_range(enhancer: Enhancer) -> None:
    cloudy, x_t = torch.rand(1, 4, 16, 16), 3 * torch.randn(1, 4, 16, 16)
    found = enhancer.estimate(x_t, enhancer.condition(cloudy), torch.tensor([500]), 0.3)
    assert found.weight.min() >= 0.3 and found.weight.max() <= 1
    assert found.fused.abs().max() <= 1
    with pytest.raises(InvalidModelInput, match="eta"):
        enhancer.estimate(x_t, enhancer.condition(cloudy), torch.tensor([500]), 1.2)


def test_schedule_refuses_too_few_steps() -> None:
    with pytest.raises(InvalidModelInput, match="20 or more"):
        Schedule(10)
    assert math.isfinite(Schedule(20).abar[-1].item())
