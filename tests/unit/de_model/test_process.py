"""The diffusion process: schedule and fusion."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.presets import Preset, ReferenceKind
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
    assert Schedule().respaced(4).tolist() == [750, 500, 250, 0]
    assert Schedule().respaced(3).tolist() == [666, 333, 0]
    assert Schedule().respaced(1).tolist() == [0]


def test_respacing_from_a_start_begins_there_and_ends_at_zero() -> None:
    assert Schedule().respaced(4, 400).tolist() == [400, 267, 133, 0]
    assert Schedule().respaced(5, 400).tolist() == [400, 300, 200, 100, 0]
    assert Schedule().respaced(2, 999).tolist() == [999, 0]
    assert Schedule().respaced(3, 5).tolist() == [5, 3, 0]  # halves go up
    assert Schedule().respaced(1, 400).tolist() == [400]
    assert Schedule().respaced(1, 0).tolist() == [0]


@given(start=st.integers(0, 999), data=st.data())
@settings(max_examples=60, deadline=None)
def test_respaced_timesteps_are_distinct_and_even(start: int, data: st.DataObject) -> None:
    steps = data.draw(st.integers(1, start + 1))
    found = Schedule().respaced(steps, start)
    assert found[0] == start and len(found) == steps and (steps == 1 or found[-1] == 0)
    gaps = -np.diff(found)
    assert (gaps >= 1).all() and (not len(gaps) or np.ptp(gaps) <= 1)


@pytest.mark.parametrize(
    ("steps", "start", "says"),
    [(0, None, "1 to 1000"), (1001, None, "1 to 1000"), (4, 1000, "0 to 999"), (4, -1, "0 to 999"), (6, 4, "1 to 5")],
)
def test_steps_and_starts_that_do_not_fit_are_refused(steps: int, start: int | None, says: str) -> None:
    with pytest.raises(InvalidModelInput, match=says):
        Schedule().respaced(steps, start)


@given(t=st.integers(0, 999), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_noise_and_image_determine_each_other(t: int, seed: int) -> None:
    schedule, random = Schedule(), torch.Generator().manual_seed(seed)
    x0 = torch.rand(1, 2, 4, 4, generator=random, dtype=torch.float64) * 2 - 1
    eps, step = torch.randn(x0.shape, generator=random, dtype=torch.float64), torch.tensor([t])
    x_t = schedule.add_noise(x0, eps, step)
    assert torch.allclose(schedule.estimate_x0(x_t, eps, step), x0, atol=1e-6)
    assert torch.allclose(schedule.noise_given_x0(x_t, x0, step), eps, atol=1e-6)


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


@pytest.mark.parametrize("kind", [ReferenceKind.MPRNET, ReferenceKind.MSDA])
def test_published_references_serve_any_preset(kind: ReferenceKind) -> None:
    made, cloudy = Enhancer(ModelCard(Preset.TINY, BANDS, 10.0, reference=kind)).eval(), torch.rand(2, 4, 16, 16)
    condition = made.condition(cloudy)
    found = made.estimate(torch.randn(2, 4, 16, 16), condition, torch.tensor([10, 900]), 0.3)
    assert torch.isfinite(found.fused).all()
    assert torch.equal(condition.reference, made.reference.estimate(cloudy) * 2 - 1)
