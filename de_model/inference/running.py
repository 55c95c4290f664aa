"""Running tiles of the first edition through the model: cut out, conditioned, sampled, brought back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from de_model.enhancer import Condition, Enhancer, Estimate
from de_model.errors import InvalidModelInput
from de_model.inference.execution import on_device
from de_model.inference.noise_field import NoiseField, TileNoise
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Tile
from de_model.radiometry import from_unit, to_signed, to_unit, to_unsigned
from de_model.sampling.samplers import SAMPLERS, Start, Walk, shrink

FloatArray = NDArray[np.float32]
T = TypeVar("T")
#: Tiles, and their layers `(tile, 3 band + 1, y, x)`: image, spread, reference in reflectance, and W.
Found = tuple[list[Tile], FloatArray]

#: Samples of a tile that a CPU evaluates together: small tiles gain a fifth, larger groups gain nothing.
_SAMPLES_AT_ONCE = 4
#: Tiles that a GPU runs together; fewer where they do not fit into its memory.
_TILES_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Inputs:
    """What tiles are cut from: canvases `(band, y, x)` in reflectance."""

    #: Finite everywhere.
    scene: FloatArray
    #: Not finite where the network's reference is wanted.
    reference: FloatArray | None
    #: Absolute row and column of the first pixel.
    origin: tuple[int, int]


def run_tiles(enhancer: Enhancer, inputs: Inputs, sampling: Sampling, tiles: Sequence[Tile]) -> Iterator[Found]:
    """Yield tiles with their layers, in order; on a CPU every tile has a core of its own.

    Raises:
        InvalidModelInput: the model gives values that are not finite.
        OutOfMemory: not even one tile fits.
        DeviceLost: the CUDA context is unusable.
    """

    run = partial(layers_of, enhancer, inputs, sampling)
    return on_device(tiles, run, next(enhancer.parameters()).device, _TILES_AT_ONCE)


@torch.inference_mode()
def layers_of(enhancer: Enhancer, inputs: Inputs, sampling: Sampling, batch: list[Tile]) -> FloatArray:
    """Return layers `(tile, 3 band + 1, y, x)` of a batch, all finite."""
    device = next(enhancer.parameters()).device
    reference = None if inputs.reference is None else _cut(inputs.reference, batch, device)
    condition = condition_of(enhancer, _cut(inputs.scene, batch, device), reference)
    fields = [NoiseField(sampling.seed, sample) for sample in range(sampling.samples)]
    images, weights = [], []
    for group in _groups(fields, _SAMPLES_AT_ONCE if device.type == "cpu" else 1):
        noise = TileNoise(tuple(group), tuple(batch), inputs.origin, len(inputs.scene), device)
        own = repeated(condition, len(group))
        walk = Walk(enhancer.schedule, sampling.steps, noise, _start(sampling, own))
        found = SAMPLERS[sampling.sampler](BoundEstimator(enhancer, own, sampling.eta), walk)
        images.append(from_unit(enhancer.finish(found.image)).unflatten(0, (-1, len(group))))
        weights.append(found.weight.mean(dim=1, keepdim=True).unflatten(0, (-1, len(group))))
    layers: FloatArray = _summary(torch.cat(images, dim=1), torch.cat(weights, dim=1), condition).cpu().numpy()
    if not np.isfinite(layers).all():
        raise InvalidModelInput(
            f"The model returned values that are not finite near row {batch[0].row}, column {batch[0].column}; use "
            "another model version."
        )
    return layers


def _start(sampling: Sampling, condition: Condition) -> Start | None:
    return None if sampling.start is None else Start(sampling.start, condition.reference)


def _groups(things: list[T], size: int) -> Iterator[list[T]]:
    remaining = iter(things)
    while group := list(islice(remaining, size)):
        yield group


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


def repeated(condition: Condition, samples: int) -> Condition:
    """Return the condition of `(tile * sample)` images, the samples of a tile together."""
    cloudy, reference = (part.repeat_interleave(samples, dim=0) for part in (condition.cloudy, condition.reference))
    return replace(condition, cloudy=cloudy, reference=reference)


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
