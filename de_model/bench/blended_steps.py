"""A scene whose tiles are blended after every step, to compare with the engine, which blends once at the end.

As in MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113) all tiles take a step from one common state, and the next
one begins at their blended estimate. No tile can then run without all others.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from de_model.enhancer import Condition, Enhancer, Estimate
from de_model.errors import InvalidModelInput
from de_model.inference.conditioning import condition_of
from de_model.inference.noise_field import NoiseField
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Tile, blending_window, plan_tiles
from de_model.radiometry import from_unit
from de_model.samplers.family import sampler_of
from de_model.samplers.walk import Walk

FloatArray = NDArray[np.float32]


@torch.inference_mode()
def restore_blending_each_step(enhancer: Enhancer, scene: FloatArray, sampling: Sampling) -> FloatArray:
    """Return every pixel of a scene restored, reflectance `(band, y, x)`, one sample from pure noise.

    Args:
        enhancer: the model.
        scene: surface reflectance `(band, y, x)`, finite, no side shorter than a tile.
        sampling: seed, steps, eta, tiling, and a sampler that keeps to full size.

    Raises:
        InvalidModelInput: a value is not finite, or the sampling asks for what cannot be blended here.
    """
    if not np.isfinite(scene).all() or min(scene.shape[1:]) < sampling.tile:
        raise InvalidModelInput("Give a scene of finite values that is no smaller than a tile.")
    if sampling.grid > 1 or sampling.start is not None:
        raise InvalidModelInput("Steps are blended at full size and from pure noise only; choose another sampler.")
    device = next(enhancer.parameters()).device
    noise = NoiseField(sampling.seed).window(0, 0, scene.shape[1:], len(scene))
    canvas = torch.from_numpy(noise)[None].to(device)
    walk = Walk(enhancer.schedule, sampling.steps, lambda _stream, _scale: canvas)
    found = sampler_of(sampling.sampler)(_BlendedEstimator(enhancer, scene, sampling, device), walk)
    image: FloatArray = from_unit(enhancer.finish(found.image))[0].float().cpu().numpy()
    return image


class _BlendedEstimator:
    """The estimate for a whole scene: that of its tiles, blended as the engine blends images."""

    def __init__(self, enhancer: Enhancer, scene: FloatArray, sampling: Sampling, device: torch.device) -> None:
        self.enhancer, self.eta = enhancer, sampling.eta
        window = blending_window(sampling.tile, sampling.overlap)
        self.window = torch.from_numpy(window).to(device)
        tiles = plan_tiles(np.ones(scene.shape[1:], bool), sampling.tile, sampling.overlap)
        self.parts: list[tuple[Tile, Condition]] = [
            (tile, condition_of(enhancer, torch.from_numpy(scene[None][..., *tile.window]).to(device), None))
            for tile in tiles
        ]

    def __call__(self, x_t: Tensor, t: Tensor) -> Estimate:
        """Return the estimate for a state of the whole scene, `(1, band, y, x)`."""
        sums, shares = [torch.zeros_like(x_t) for _ in Estimate._fields], torch.zeros_like(x_t[:, :1])
        for tile, condition in self.parts:
            found = self.enhancer.estimate(x_t[..., *tile.window], condition, t, self.eta)
            for total, layer in zip(sums, found, strict=True):
                total[..., *tile.window] += layer * self.window
            shares[..., *tile.window] += self.window
        return Estimate(*(total / shares for total in sums))
