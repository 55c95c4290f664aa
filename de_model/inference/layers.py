"""What a tile becomes: image, spread, reference and W, by the networks of either edition."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from de_model.enhancer import Condition, Enhancer, Estimate
from de_model.errors import InvalidModelInput
from de_model.inference.noise_field import NoiseField, TileNoise
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Tile
from de_model.radiometry import from_unit, to_signed, to_unit, to_unsigned
from de_model.samplers import SAMPLERS, Start, Trajectory, shrink
from de_model.scene.design import SceneDesign
from de_model.scene.model import SceneNetworks
from de_model.scene.networks import Inputs

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Canvases:
    """What tiles are cut from, `(band, y, x)` in reflectance."""

    #: Finite everywhere.
    scene: FloatArray
    #: Not finite where the network's reference is wanted.
    reference: FloatArray | None
    #: Absolute row and column of the first pixel.
    origin: tuple[int, int]


@torch.inference_mode()
def layers_of(enhancer: Enhancer, canvases: Canvases, sampling: Sampling, batch: list[Tile]) -> FloatArray:
    """Return layers `(tile, 3 band + 1, y, x)` of a batch: image, spread and reference in reflectance, and W.

    Raises:
        InvalidModelInput: a layer is not finite.
    """
    device = next(enhancer.parameters()).device
    reference = None if canvases.reference is None else _cut(canvases.reference, batch, device)
    condition = condition_of(enhancer, _cut(canvases.scene, batch, device), reference)
    images, weights = [], []
    for sample in range(sampling.samples):
        noise = TileNoise(NoiseField(sampling.seed, sample), tuple(batch), canvases.origin, len(canvases.scene), device)
        trajectory = Trajectory(enhancer.schedule, sampling.steps, noise, _start(sampling, condition))
        found = SAMPLERS[sampling.sampler](BoundEstimator(enhancer, condition, sampling.eta), trajectory)
        images.append(from_unit(to_unsigned(found.image)))
        weights.append(found.weight.mean(dim=1, keepdim=True))
    layers: FloatArray = _summary(torch.stack(images, dim=1), torch.stack(weights, dim=1), condition).cpu().numpy()
    if not np.isfinite(layers).all():
        raise InvalidModelInput(
            f"The model returned values that are not finite near row {batch[0].row}, column {batch[0].column}; use "
            "another model version."
        )
    return layers


def _start(sampling: Sampling, condition: Condition) -> Start | None:
    return None if sampling.start is None else Start(sampling.start, condition.reference)


def _cut(canvas: FloatArray, batch: list[Tile], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack([canvas[:, *tile.window] for tile in batch])).to(device)


def _summary(images: Tensor, weights: Tensor, condition: Condition) -> Tensor:
    """Reduce `(tile, sample, band, y, x)` to mean and deviation, and add reference and mean W."""
    mean = images.mean(dim=1)
    # A tenth of the time of `std`, which reduces this axis slowly.
    squares = (images - mean[:, None]).square().sum(dim=1)
    spread = (squares / max(1, images.shape[1] - 1)).sqrt()
    reference = from_unit(to_unsigned(condition.reference))
    return torch.cat([mean, spread, reference, weights.mean(dim=1)], dim=1).float()


def condition_of(enhancer: Enhancer, cloudy: Tensor, reference: Tensor | None) -> Condition:
    """Run the reference network once and put a given reference in its place where there is one.

    Args:
        enhancer: the model.
        cloudy: surface reflectance `(batch, band, y, x)`, finite.
        reference: the same shape; a pixel counts as given where every band is finite.
    """
    condition = enhancer.condition(to_unit(cloudy))
    if reference is None:
        return condition
    given = reference.isfinite().all(dim=1, keepdim=True)
    return replace(condition, reference=torch.where(given, to_signed(to_unit(reference)), condition.reference))


class BoundEstimator:
    """The model with its conditions and eta fixed for one image, at the size of the state that it is asked about."""

    def __init__(self, enhancer: Enhancer, condition: Condition, eta: float) -> None:
        self.enhancer, self.eta = enhancer, eta
        self.conditions = {1: condition}

    def __call__(self, x_t: Tensor, t: Tensor) -> Estimate:
        """Return the fused estimate for `x_t` `(batch, band, y, x)`, a whole factor smaller than the tile or equal."""
        condition = self._at(self.conditions[1].cloudy.shape[-1] // x_t.shape[-1])
        return self.enhancer.estimate(x_t, condition, t, self.eta)

    def _at(self, scale: int) -> Condition:
        if scale not in self.conditions:
            full = self.conditions[1]
            smaller = {"cloudy": shrink(full.cloudy, scale), "reference": shrink(full.reference, scale)}
            self.conditions[scale] = replace(full, **smaller)
        return self.conditions[scale]


@torch.inference_mode()
def standardised_layers(
    networks: SceneNetworks,
    design: SceneDesign,
    maps: FloatArray,
    numbers: FloatArray,
    sampling: Sampling,
    origin: tuple[int, int],
    given: FloatArray | None,
    tiles: list[Tile],
) -> FloatArray:
    """Return mean, deviation, reference (standardised) and W of the one tile of a batch, `(1, 3 band + 1, y, x)`.

    `given` `(band, y, x)`, standardised, takes the place of the reference network's estimate where it is finite.
    """
    (tile,) = tiles
    device = next(networks.parameters()).device
    cut = torch.from_numpy(np.ascontiguousarray(maps[:, *tile.window]))[None].to(device)
    inputs = Inputs(cut, torch.from_numpy(numbers)[None].to(device), networks.bands)
    belief = networks.reference(inputs)
    if given is not None:
        better = torch.from_numpy(np.ascontiguousarray(given[:, *tile.window]))[None].to(device)
        belief = networks.belief_in(better, inputs, belief)
    start = design.t_start if sampling.start is None else sampling.start
    found = []
    for sample in range(sampling.samples):
        noise = TileNoise(NoiseField(sampling.seed, sample), (tile,), origin, networks.bands, device)(0, 1)
        found.append(networks.sample(inputs, noise, start, sampling.steps, sampling.eta, reference=belief))
    mean = torch.stack([each.mean for each in found]).mean(dim=0)
    log_deviation = torch.stack([each.log_variance for each in found]).mean(dim=0) / 2
    weight = torch.stack([each.weight for each in found]).mean(dim=(0, 2))[:, None]
    middle, deviation, reference, share = (
        layer.cpu().numpy() for layer in (mean, log_deviation, found[0].reference, weight)
    )
    return np.concatenate([middle, np.exp(recalibrated(deviation, design.widths)), reference, share], axis=1)


def recalibrated(log_deviation: FloatArray, widths: tuple[tuple[float, float], ...]) -> FloatArray:
    """Return logarithms of deviations, corrected by the knots of the card; unchanged without any."""
    if not widths:
        return log_deviation
    at, by = np.array(widths).T
    return (log_deviation + np.interp(log_deviation, at, by)).astype(np.float32)
