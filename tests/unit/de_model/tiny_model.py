"""The model that the engine's tests run: of the smallest preset, no weight zero, so that every layer does something."""

from __future__ import annotations

import torch

from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.presets import Preset


def tiny_model(seed: int = 2, spread: float = 0.08, **conditions: bool) -> Enhancer:
    """Return a model of two bands with Gaussian weights of deviation `spread`; `conditions` are fields of its card."""
    torch.manual_seed(seed)
    enhancer = Enhancer(ModelCard(Preset.TINY, ("red", "nir"), 10.0, **conditions)).eval().requires_grad_(False)
    for parameter in enhancer.parameters():
        torch.nn.init.normal_(parameter, std=spread)
    return enhancer
