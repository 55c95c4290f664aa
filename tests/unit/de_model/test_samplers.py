"""The samplers: what they share, where they end, and how fast they converge."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from de_model.card import ModelCard
from de_model.enhancer import Condition, Enhancer, Estimate
from de_model.errors import InvalidModelInput
from de_model.inference.running import BoundEstimator
from de_model.presets import Preset
from de_model.sampling.kinds import SamplerKind, coarsest_scale, sampler_kind, scales_of
from de_model.sampling.samplers import (
    SAMPLERS,
    Estimator,
    NoiseSource,
    Sampler,
    Start,
    Trajectory,
    ddim,
    dpmpp2m,
    pyramid,
    shrink,
)
from de_model.schedule import Schedule

FULL_SIZE = (SamplerKind.DDIM, SamplerKind.DPMPP2M)
SHAPE = (2, 4, 16, 16)


def noise_of(shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> NoiseSource:
    """Noise by address: the generator is seeded anew for every stream and scale."""

    def noise(stream: int, scale: int) -> Tensor:
        random = torch.Generator().manual_seed(1000 * stream + scale)
        return torch.randn(*shape[:2], shape[2] // scale, shape[3] // scale, generator=random, dtype=dtype)

    return noise


def same(image: Tensor) -> Estimate:
    return Estimate(image, image, image)


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    """A tiny model whose every weight matters: nothing is left at its zero start."""
    torch.manual_seed(1)
    model = Enhancer(ModelCard(Preset.TINY, ("blue", "green", "red", "nir"), 10.0)).eval().requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    return model


@pytest.fixture(scope="module")
def condition(enhancer: Enhancer) -> Condition:
    return enhancer.condition(torch.rand(SHAPE, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("kind", SamplerKind)
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("start", [None, 400])
def test_the_truth_as_estimate_returns_the_truth(kind: SamplerKind, steps: int, start: int | None) -> None:
    truth = torch.rand(SHAPE) * 2 - 1
    begin = None if start is None else Start(start, torch.zeros(SHAPE))
    trajectory = Trajectory(Schedule(), steps, noise_of(), begin)
    found = SAMPLERS[kind](lambda x, _t: same(shrink(truth, SHAPE[-1] // x.shape[-1])), trajectory)
    assert torch.equal(found.image, truth)


@pytest.mark.parametrize("kind", FULL_SIZE)
def test_a_constant_estimate_keeps_its_noise_through_the_schedule(kind: SamplerKind) -> None:
    """Every state is alpha * truth + sigma * the first noise: the ODE's exact solution."""
    schedule, truth = Schedule(), torch.rand(SHAPE, dtype=torch.float64) * 2 - 1
    trajectory = Trajectory(schedule, 6, noise_of(dtype=torch.float64))
    expected = schedule.noise_given_x0(trajectory.initial_state(), truth, torch.full((2,), 830))

    def estimate(x_t: Tensor, t: Tensor) -> Estimate:
        assert torch.allclose(schedule.noise_given_x0(x_t, truth, t), expected, atol=1e-9)
        return same(truth)

    SAMPLERS[kind](estimate, trajectory)


def test_ddim_rederives_the_noise_from_the_fused_estimate() -> None:
    """Against the update written out in float64 (DE section 1.6)."""
    schedule, states = Schedule(), []
    trajectory = Trajectory(schedule, 10, noise_of((1, 1, 4, 4), torch.float64))

    def estimate(x_t: Tensor, t: Tensor) -> Estimate:
        states.append(x_t)
        return same(0.4 * x_t.clamp(-1, 1) + 0.1)

    ddim(estimate, trajectory)
    a, b = schedule.abar[900], schedule.abar[800]
    fused = 0.4 * trajectory.initial_state().clamp(-1, 1) + 0.1
    eps = (trajectory.initial_state() / a.sqrt() - fused) / (1 / a - 1).sqrt()
    assert torch.allclose(states[1], b.sqrt() * fused + (1 - b).sqrt() * eps, atol=1e-10)


@pytest.mark.parametrize("kind", SamplerKind)
@pytest.mark.parametrize("start", [None, 300])
def test_eta_one_returns_the_reference_exactly(
    enhancer: Enhancer, condition: Condition, kind: SamplerKind, start: int | None
) -> None:
    begin = None if start is None else Start(start, condition.reference)
    found = SAMPLERS[kind](
        BoundEstimator(enhancer, condition, 1.0), Trajectory(enhancer.schedule, 5, noise_of(), begin)
    )
    assert torch.equal(found.image, condition.reference)
    assert torch.equal(found.weight, torch.ones(SHAPE))


@pytest.mark.parametrize("kind", SamplerKind)
def test_larger_eta_draws_the_result_to_the_reference(
    enhancer: Enhancer, condition: Condition, kind: SamplerKind
) -> None:
    def distance(eta: float) -> float:
        estimate = BoundEstimator(enhancer, condition, eta)
        found = SAMPLERS[kind](estimate, Trajectory(enhancer.schedule, 5, noise_of()))
        return (found.image - condition.reference).abs().mean().item()

    distances = [distance(eta) for eta in (0.0, 0.3, 0.6, 0.9, 1.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0


@pytest.mark.parametrize("kind", SamplerKind)
def test_the_same_noise_gives_the_same_image_within_range(
    enhancer: Enhancer, condition: Condition, kind: SamplerKind
) -> None:
    estimate = BoundEstimator(enhancer, condition, 0.3)
    first, again = (SAMPLERS[kind](estimate, Trajectory(enhancer.schedule, 4, noise_of())).image for _ in range(2))
    assert torch.equal(first, again) and first.shape == SHAPE
    assert first.abs().max() <= 1


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


@pytest.mark.parametrize("kind", SamplerKind)
def test_steps_that_do_not_fit_are_refused(kind: SamplerKind) -> None:
    for trajectory in (
        Trajectory(Schedule(), 0, noise_of()),
        Trajectory(Schedule(), 4, noise_of(), Start(2, torch.zeros(SHAPE))),
    ):
        with pytest.raises(InvalidModelInput, match="sampling steps"):
            SAMPLERS[kind](lambda x, _t: same(x), trajectory)
    with pytest.raises(InvalidModelInput, match="0 to 999"):
        SAMPLERS[kind](lambda x, _t: same(x), Trajectory(Schedule(), 4, noise_of(), Start(1000, torch.zeros(SHAPE))))


def test_a_start_is_the_image_noised_to_its_timestep() -> None:
    schedule, image = Schedule(), torch.rand(SHAPE) * 2 - 1
    begin = Trajectory(schedule, 4, noise_of(), Start(400, image)).initial_state()
    abar = schedule.abar[400]
    assert torch.allclose(begin, abar.sqrt().float() * image + (1 - abar).sqrt().float() * noise_of()(0, 1), atol=1e-6)
    coarse = Trajectory(schedule, 4, noise_of(), Start(0, image)).initial_state(4)
    assert (coarse - shrink(image, 4)).abs().max() < 0.06  # sigma at 0 is 0.01


def test_names_of_samplers_are_checked() -> None:
    assert sampler_kind("dpmpp2m") is SamplerKind.DPMPP2M
    with pytest.raises(InvalidModelInput, match=r"euler.*ddim, dpmpp2m, pyramid"):
        sampler_kind("euler")


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


MEAN, DEVIATION = 0.2, 0.5


def gaussian(schedule: Schedule, last: list[Tensor]) -> Estimator:
    """The best estimate where every value of the clear image is Gaussian; the last state is kept."""

    def estimate(x_t: Tensor, t: Tensor) -> Estimate:
        alpha, sigma, _ = schedule.level(int(t[0]))
        last[:] = [x_t]
        gain = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
        return same(MEAN + gain * (x_t - alpha * MEAN))

    return estimate


def exact(schedule: Schedule, x: Tensor, begin: int, end: int) -> Tensor:
    """The solution of the diffusion ODE for the Gaussian: states keep their place in the marginal."""
    (a, s, _), (b, u, _) = schedule.level(begin), schedule.level(end)
    return b * MEAN + math.hypot(b * DEVIATION, u) / math.hypot(a * DEVIATION, s) * (x - a * MEAN)


def ode_error(sampler: Sampler, steps: int, start: int | None = None) -> float:
    """Largest deviation from the exact solution at the state in which the last evaluation is made."""
    schedule, last = Schedule(), []
    begin = None if start is None else Start(start, torch.zeros(SHAPE, dtype=torch.float64))
    trajectory = Trajectory(schedule, steps, noise_of(dtype=torch.float64), begin)
    sampler(gaussian(schedule, last), trajectory)
    return (last[0] - exact(schedule, trajectory.initial_state(), trajectory.timesteps[0], 0)).abs().max().item()


def test_four_steps_of_second_order_are_nearer_to_the_exact_solution_than_four_of_ddim() -> None:
    schedule = Schedule()
    trajectory = Trajectory(schedule, 4, noise_of(dtype=torch.float64))
    # At the very end, sigma = 0, the exact solution is the clear image that belongs to the noise.
    level = schedule.level(trajectory.timesteps[0])
    scale = DEVIATION / math.hypot(level.alpha * DEVIATION, level.sigma)
    truth = MEAN + scale * (trajectory.initial_state() - level.alpha * MEAN)
    error = {
        kind: (SAMPLERS[kind](gaussian(schedule, []), trajectory).image - truth).abs().mean().item()
        for kind in FULL_SIZE
    }
    assert error[SamplerKind.DPMPP2M] < 0.5 * error[SamplerKind.DDIM]


@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (dpmpp2m, 2)])
def test_errors_fall_with_the_order_of_the_sampler(sampler: Callable, order: int) -> None:
    """From t = 400 the steps are even enough in lambda for the asymptotic rate to show."""
    coarse, fine = ode_error(sampler, 26, 400), ode_error(sampler, 101, 400)
    assert math.log(coarse / fine) / math.log(4) > order - 0.35
