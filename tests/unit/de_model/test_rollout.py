"""Training on the states that sampling visits."""

from __future__ import annotations

import pytest
import torch

from de_model.card import ModelCard
from de_model.enhancer import Enhancer, Estimate
from de_model.errors import InvalidModelInput
from de_model.presets import Preset
from de_model.sampling.samplers import Walk, ddim
from de_model.training.options import GradientFlow, States, TrainingOptions
from de_model.training.rollout import STEPS, visited_states
from de_model.weighting import WeightMode


def lively() -> Enhancer:
    """A tiny model whose last layers are not at their zero start."""
    torch.manual_seed(3)
    enhancer = Enhancer(ModelCard(Preset.TINY, ("red", "nir"), 10.0, weight_mode=WeightMode.BOUNDED)).eval()
    with torch.no_grad():
        for parameter in enhancer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return enhancer


def test_the_states_are_those_of_the_sampler() -> None:
    enhancer = lively()
    cloudy, eps = torch.rand(3, 2, 16, 16), torch.randn(3, 2, 16, 16)
    condition = enhancer.condition(cloudy)
    seen: dict[int, torch.Tensor] = {}

    def watched(x_t: torch.Tensor, t: torch.Tensor) -> Estimate:
        seen[int(t[0])] = x_t.clone()
        return enhancer.estimate(x_t, condition, t, enhancer.card.eta)

    with torch.no_grad():
        ddim(watched, Walk(enhancer.schedule, STEPS, lambda _stream, _scale: eps))
    wanted = torch.tensor([950, 437, 12])
    states, t = visited_states(enhancer, condition, eps, wanted)
    assert t.tolist() == [900, 400, 0]
    for index, step in enumerate(t.tolist()):
        assert torch.allclose(states[index], seen[step][index], atol=1e-5), step


def test_a_walk_and_a_gradient_through_it_exclude_each_other() -> None:
    with pytest.raises(InvalidModelInput, match="rollout"):
        TrainingOptions(states=States.ROLLOUT, gradient_flow=GradientFlow.COUPLED)
