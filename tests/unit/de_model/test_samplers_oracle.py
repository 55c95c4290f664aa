"""The samplers against the schedulers of diffusers, an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor

from de_model.enhancer import Estimate
from de_model.sampling.samplers import Start, Trajectory, ddim, dpmpp2m
from de_model.schedule import Schedule

# diffusers hands tensors to numpy in a way that numpy 2 announces to end.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (2, 3, 8, 8)
PROCESS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "prediction_type": "sample"}
Scheduler = DDIMScheduler | DPMSolverMultistepScheduler


def noise(_stream: int = 0, _scale: int = 1) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(11), dtype=torch.float64)


def fused(x_t: Tensor, t: int) -> Tensor:
    """An estimate that depends on state and time, not linearly."""
    return torch.tanh(0.8 * x_t + 0.3 * np.cos(t / 200)) * (1 - 0.4 * t / 1000)


def estimate(x_t: Tensor, t: Tensor) -> Estimate:
    image = fused(x_t, int(t[0]))
    return Estimate(image, image, image)


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

    begin = None if start is None else Start(start, torch.full(SHAPE, 0.2, dtype=torch.float64))
    trajectory = Trajectory(Schedule(), steps, noise, begin)
    found = dpmpp2m(kept, trajectory)
    scheduler = DPMSolverMultistepScheduler(
        **PROCESS, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint"
    )
    expected, expected_states = oracle(on_timesteps(scheduler, trajectory.timesteps), trajectory.initial_state())
    assert torch.allclose(found.image, expected, atol=1e-6, rtol=0)
    for state, expected_state in zip(states, expected_states, strict=True):
        assert torch.allclose(state, expected_state, atol=1e-6, rtol=0)
