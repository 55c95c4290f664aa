"""The diffusion process and its samplers: schedule, fusion, where they end, and the states of diffusers' schedulers."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from de_model.enhancer import Enhancer, Estimate
from de_model.errors import InvalidModelInput
from de_model.inference.layers import BoundEstimator
from de_model.inference.sampling import SamplerKind, coarsest_scale, scales_of
from de_model.samplers import SAMPLERS, NoiseSource, Start, Trajectory, ddim, dpmpp2m, pyramid, shrink
from de_model.schedule import Schedule


def test_schedule_has_the_published_values() -> None:
    abar = Schedule().abar
    assert abar[900].item() == pytest.approx(2.70e-4, rel=5e-3)
    assert abar[999].item() == pytest.approx(4.04e-5, rel=5e-3)
    assert abar[0].item() == pytest.approx(1 - 1e-4)
    assert (abar.diff() < 0).all()


@given(start=st.integers(0, 999), data=st.data())
@settings(max_examples=60, deadline=None)
def test_respaced_timesteps_are_distinct_and_even(start: int, data: st.DataObject) -> None:
    steps = data.draw(st.integers(1, start + 1))
    found = Schedule().respaced(steps, start)
    assert found[0] == start and len(found) == steps and (steps == 1 or found[-1] == 0)
    gaps = -np.diff(found)
    assert (gaps >= 1).all() and (not len(gaps) or np.ptp(gaps) <= 1)


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
    cloudy, x_t = torch.rand(1, 2, 16, 16), 3 * torch.randn(1, 2, 16, 16)
    found = enhancer.estimate(x_t, enhancer.condition(cloudy), torch.tensor([500]), 0.3)
    assert found.weight.min() >= 0.3 and found.weight.max() <= 1
    assert found.fused.abs().max() <= 1
    with pytest.raises(InvalidModelInput, match="eta"):
        enhancer.estimate(x_t, enhancer.condition(cloudy), torch.tensor([500]), 1.2)


def test_schedule_refuses_too_few_steps() -> None:
    with pytest.raises(InvalidModelInput, match="20 or more"):
        Schedule(10)
    assert math.isfinite(Schedule(20).abar[-1].item())


# diffusers hands tensors to numpy in a way that numpy 2 announces to end.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (2, 4, 16, 16)


def noise_of(shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> NoiseSource:
    """Noise by address: the generator is seeded anew for every stream and scale."""

    def noise(stream: int, scale: int) -> Tensor:
        random = torch.Generator().manual_seed(1000 * stream + scale)
        return torch.randn(*shape[:2], shape[2] // scale, shape[3] // scale, generator=random, dtype=dtype)

    return noise


def same(image: Tensor) -> Estimate:
    return Estimate(image, image, image)


@pytest.mark.parametrize("kind", SamplerKind)
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("start", [None, 400])
def test_the_truth_as_estimate_returns_the_truth(kind: SamplerKind, steps: int, start: int | None) -> None:
    truth = torch.rand(SHAPE) * 2 - 1
    begin = None if start is None else Start(start, torch.zeros(SHAPE))
    trajectory = Trajectory(Schedule(), steps, noise_of(), begin)
    found = SAMPLERS[kind](lambda x, _t: same(shrink(truth, SHAPE[-1] // x.shape[-1])), trajectory)
    assert torch.equal(found.image, truth)


@pytest.mark.parametrize("kind", SamplerKind)
def test_larger_eta_draws_the_result_to_the_reference(enhancer: Enhancer, kind: SamplerKind) -> None:
    shape = (2, 2, 16, 16)
    condition = enhancer.condition(torch.rand(shape, generator=torch.Generator().manual_seed(5)))

    def distance(eta: float) -> float:
        estimate = BoundEstimator(enhancer, condition, eta)
        found = SAMPLERS[kind](estimate, Trajectory(enhancer.schedule, 5, noise_of(shape)))
        assert found.image.abs().max() <= 1
        return (found.image - condition.reference).abs().mean().item()

    distances = [distance(eta) for eta in (0.0, 0.3, 0.6, 0.9, 1.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0 and distances[-1] == 0


@pytest.mark.parametrize("kind", SamplerKind)
def test_every_sampler_evaluates_the_model_once_per_step(kind: SamplerKind) -> None:
    seen: list[int] = []

    def estimate(x_t: Tensor, t: Tensor) -> Estimate:
        seen.append(int(t[0]))
        return same(x_t.clamp(-1, 1))

    SAMPLERS[kind](estimate, Trajectory(Schedule(), 10, noise_of()))
    assert seen == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    seen.clear()
    SAMPLERS[kind](estimate, Trajectory(Schedule(), 4, noise_of(), Start(400, torch.zeros(SHAPE))))
    assert seen == [400, 267, 133, 0]


def test_a_start_is_the_image_noised_to_its_timestep() -> None:
    schedule, image = Schedule(), torch.rand(SHAPE) * 2 - 1
    begin = Trajectory(schedule, 4, noise_of(), Start(400, image)).initial_state()
    abar = schedule.abar[400]
    assert torch.allclose(begin, abar.sqrt().float() * image + (1 - abar).sqrt().float() * noise_of()(0, 1), atol=1e-6)
    coarse = Trajectory(schedule, 4, noise_of(), Start(0, image)).initial_state(4)
    assert (coarse - shrink(image, 4)).abs().max() < 0.06  # sigma at 0 is 0.01


def test_pyramid_spends_steps_as_published() -> None:
    assert scales_of(10) == [4, 4, 4, 4, 4, 4, 2, 2, 1, 1]
    assert scales_of(4) == [4, 4, 2, 1] and scales_of(2) == [4, 1] and scales_of(1) == [1]
    for steps in range(1, 60):
        scales = scales_of(steps)
        assert len(scales) == steps and scales[-1] == 1
        assert scales == sorted(scales, reverse=True) and all(a // b in (1, 2, 4) for a, b in pairwise(scales))
        assert coarsest_scale(SamplerKind.PYRAMID, steps) == scales[0]
        assert coarsest_scale(SamplerKind.DDIM, steps) == 1


@pytest.mark.parametrize("bands", [1, 3, 13])
def test_pyramid_noises_the_enlarged_estimate_afresh(bands: int) -> None:
    schedule, shape = Schedule(), (1, bands, 16, 16)
    asked: list[tuple[int, int]] = []
    states: list[Tensor] = []

    def noise(stream: int, scale: int) -> Tensor:
        asked.append((stream, scale))
        return noise_of(shape)(stream, scale)

    def estimate(x_t: Tensor, t: Tensor) -> Estimate:
        states.append(x_t)
        return same(x_t.clamp(-1, 1))

    found = pyramid(estimate, Trajectory(schedule, 10, noise))
    assert asked == [(0, 4), (1, 2), (2, 1)]
    assert [s.shape[-1] for s in states] == [4] * 6 + [8] * 2 + [16] * 2
    enlarged = states[5].clamp(-1, 1).repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    expected = schedule.add_noise(enlarged, noise_of(shape)(1, 2), torch.tensor([300]))
    assert torch.equal(states[6], expected)
    assert found.image.shape == shape


#: Of the comparison with the schedulers of diffusers, an independent implementation.
SMALL = (2, 3, 8, 8)
PROCESS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "prediction_type": "sample"}
Scheduler = DDIMScheduler | DPMSolverMultistepScheduler


def noise(_stream: int = 0, _scale: int = 1) -> Tensor:
    return torch.randn(SMALL, generator=torch.Generator().manual_seed(11), dtype=torch.float64)


def fused(x_t: Tensor, t: int) -> Tensor:
    """An estimate that depends on state and time, not linearly."""
    return torch.tanh(0.8 * x_t + 0.3 * np.cos(t / 200)) * (1 - 0.4 * t / 1000)


def estimate(x_t: Tensor, t: Tensor) -> Estimate:
    return same(fused(x_t, int(t[0])))


def oracle(scheduler: Scheduler, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the image and all states of a scheduler whose timesteps are set."""
    states = []
    for t in scheduler.timesteps:
        states.append(x)
        x = scheduler.step(fused(x, int(t)), t, x).prev_sample
    return x, states


def on_timesteps(scheduler: Scheduler, timesteps: list[int]) -> Scheduler:
    """Put a multistep scheduler on our timesteps, in double precision.

    Its own spacings divide T by the steps plus one, and its float32 table holds sigma at t = 0 to three digits only.
    """
    scheduler.set_timesteps(len(timesteps))
    abar = Schedule().abar[timesteps]
    assert torch.allclose(scheduler.alphas_cumprod[timesteps].double(), abar, atol=1e-6)
    sigma = ((1 - abar) / abar).sqrt()
    scheduler.timesteps, scheduler.sigmas = torch.tensor(timesteps), torch.cat([sigma, torch.zeros(1)])
    return scheduler


def test_ddim_agrees_on_timesteps_and_image() -> None:
    for steps in (1, 4, 10, 50):
        scheduler = DDIMScheduler(**PROCESS, clip_sample=False, timestep_spacing="leading", set_alpha_to_one=True)
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps.tolist() == Schedule().respaced(steps).tolist()
        expected, _ = oracle(scheduler, noise())
        assert torch.allclose(ddim(estimate, Trajectory(Schedule(), steps, noise)).image, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("start", [None, 400])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 20])
def test_dpm_solver_agrees_on_every_state(steps: int, start: int | None) -> None:
    states: list[Tensor] = []

    def kept(x_t: Tensor, t: Tensor) -> Estimate:
        states.append(x_t)
        return estimate(x_t, t)

    begin = None if start is None else Start(start, torch.full(SMALL, 0.2, dtype=torch.float64))
    trajectory = Trajectory(Schedule(), steps, noise, begin)
    found = dpmpp2m(kept, trajectory)
    scheduler = DPMSolverMultistepScheduler(
        **PROCESS, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint"
    )
    expected, expected_states = oracle(on_timesteps(scheduler, trajectory.timesteps), trajectory.initial_state())
    assert torch.allclose(found.image, expected, atol=1e-6, rtol=0)
    for state, expected_state in zip(states, expected_states, strict=True):
        assert torch.allclose(state, expected_state, atol=1e-6, rtol=0)
