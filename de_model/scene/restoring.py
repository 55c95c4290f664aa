"""Restoring a scene, or a window of it, with a model of the second edition, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from de_model.inference.blending import Plan
from de_model.inference.execution import on_device
from de_model.inference.noise_field import NoiseField, TileNoise
from de_model.inference.part import Part
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Tile
from de_model.scene.design import SceneDesign
from de_model.scene.model import SceneNetworks
from de_model.scene.networks import Inputs
from de_model.scene.observation import Levels, Observation, maps_of

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class SceneRestoration:
    """What the model says about a scene; NaN outside the tiles that were run."""

    #: Restored reflectance `(band, y, x)`, 0..1.
    image: FloatArray
    #: Its standard deviation as the model predicts it `(band, y, x)`, reflectance.
    deviation: FloatArray
    #: The reference alone `(band, y, x)`, reflectance.
    reference: FloatArray
    #: W averaged over bands and samples `(y, x)`.
    reference_weight: FloatArray
    tiles: int


def restore_observation(
    networks: SceneNetworks,
    design: SceneDesign,
    seen: Observation,
    needed: BoolArray,
    sampling: Sampling,
    levels: Levels,
    on_tile: Progress | None = None,
    origin: tuple[int, int] = (0, 0),
    part: Part | None = None,
) -> SceneRestoration:
    """Restore the needed pixels.

    Args:
        networks: the model; its device is used.
        design: of its card.
        seen: the scene or a window of it.
        needed: `(y, x)`, True where a result is wanted.
        sampling: seed, samples, steps, start, eta and tiling.
        levels: of the whole scene (`levels_of`).
        on_tile: called with (tiles done, tiles in all).
        origin: absolute row and column of the scene's first pixel, the address in the noise field.
        part: where the window lies when `seen` is one; `origin` is then that of the whole scene, and the result is
            what the whole scene would give, bit for bit on a CPU.

    Raises:
        OutOfMemory: a tile does not fit into memory.
        DeviceLost: the GPU does not answer any more.
    """
    maps, numbers = maps_of(seen, levels)
    bands, plan = len(seen.image), Plan.of(needed, sampling, origin, part or Part(needed.shape, (0, 0), ()))
    run = partial(_tile, networks, design, plan.frame.mirror(maps), numbers, sampling, plan.frame.origin)
    results = on_device(plan.tiles, run, next(networks.parameters()).device, 1)
    blended = plan.blended(results, 3 * bands + 1, on_tile)
    mean, deviation, reference, weight = np.split(blended, [bands, 2 * bands, 3 * bands])
    _, scale = levels.columns()
    return SceneRestoration(
        np.clip(levels.reflectance(mean), 0, 1),
        (deviation * scale).astype(np.float32),
        np.clip(levels.reflectance(reference), 0, 1),
        weight[0],
        len(plan.tiles),
    )


@torch.inference_mode()
def _tile(
    networks: SceneNetworks,
    design: SceneDesign,
    maps: FloatArray,
    numbers: FloatArray,
    sampling: Sampling,
    origin: tuple[int, int],
    tiles: list[Tile],
) -> FloatArray:
    """Return mean, deviation, reference (standardised) and W of the one tile of a batch, `(1, 3 band + 1, y, x)`."""
    (tile,) = tiles
    device = next(networks.parameters()).device
    cut = torch.from_numpy(np.ascontiguousarray(maps[:, *tile.window]))[None].to(device)
    inputs = Inputs(cut, torch.from_numpy(numbers)[None].to(device), networks.bands)
    belief = networks.reference(inputs)
    start = design.t_start if sampling.start is None else sampling.start
    found = [
        networks.sample(inputs, noise, start, sampling.steps, sampling.eta, reference=belief)
        for noise in _noise(tile, sampling, origin, networks.bands, device)
    ]
    mean = torch.stack([each.mean for each in found]).mean(dim=0)
    log_deviation = torch.stack([each.log_variance for each in found]).mean(dim=0) / 2
    deviation = recalibrated(log_deviation, design.widths).exp()
    weight = torch.stack([each.weight for each in found]).mean(dim=(0, 2))[:, None]
    return torch.cat([mean, deviation, belief.mean, weight], dim=1).cpu().numpy()


def _noise(
    tile: Tile, sampling: Sampling, origin: tuple[int, int], bands: int, device: torch.device
) -> Sequence[Tensor]:
    """Return the noise of every sample of a tile, `(1, band, y, x)`."""
    return [
        TileNoise((NoiseField(sampling.seed, sample),), (tile,), origin, bands, device)(0, 1)
        for sample in range(sampling.samples)
    ]


def recalibrated(log_deviation: Tensor, widths: tuple[tuple[float, float], ...]) -> Tensor:
    """Return logarithms of deviations, corrected by the knots of the card; unchanged without any."""
    if not widths:
        return log_deviation
    at, by = (torch.tensor(column, device=log_deviation.device) for column in zip(*widths, strict=True))
    clamped = log_deviation.clamp(float(at[0]), float(at[-1]))
    index = torch.searchsorted(at, clamped.contiguous()).clamp(1, len(at) - 1) if len(at) > 1 else None
    if index is None:
        return log_deviation + by[0]
    low, high = at[index - 1], at[index]
    share = (clamped - low) / (high - low)
    return log_deviation + torch.lerp(by[index - 1], by[index], share)
