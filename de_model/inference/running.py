"""Running tiles through the model: cut out, sampled, brought back, and run again where numbers overflowed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from de_model.enhancer import Condition, Enhancer
from de_model.errors import InvalidModelInput
from de_model.inference.acceleration import Acceleration, Precision
from de_model.inference.conditioning import BoundEstimator, condition_of, repeated
from de_model.inference.execution import accelerated, batch_size, in_batches, in_threads, watched
from de_model.inference.noise_field import NoiseField, TileNoise
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Tile
from de_model.radiometry import from_unit, to_unsigned
from de_model.sampling.samplers import SAMPLERS, NoiseSource, Sample, Start, Walk

FloatArray = NDArray[np.float32]
T = TypeVar("T")
#: Tiles, and their layers `(tile, 3 band + 1, y, x)`: image, spread, reference in reflectance, and W.
Found = tuple[list[Tile], FloatArray]

_log = logging.getLogger(__name__)

#: Samples of a tile that a CPU evaluates together: small tiles gain a fifth, larger groups gain nothing.
_SAMPLES_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Inputs:
    """What tiles are cut from: canvases `(band, y, x)` in reflectance."""

    #: Finite everywhere.
    scene: FloatArray
    #: Not finite where the network's reference is wanted.
    reference: FloatArray | None
    #: Absolute row and column of the first pixel.
    origin: tuple[int, int]


class Runner:
    """Runs tiles; what overflows a short number format is run again in float32.

    Args:
        enhancer: the model, as it was loaded; its device is used.
        inputs: what tiles are cut from.
        sampling: how they are restored.
    """

    def __init__(self, enhancer: Enhancer, inputs: Inputs, sampling: Sampling) -> None:
        self.device = next(enhancer.parameters()).device
        self._loaded, self._enhancer = enhancer, accelerated(enhancer, sampling.acceleration)
        self._inputs, self._sampling = inputs, sampling
        self._again: set[Tile] = set()

    @property
    def redone(self) -> int:
        """Tiles run again so far."""
        return len(self._again)

    def results(self, tiles: Sequence[Tile]) -> Iterator[Found]:
        """Yield tiles with their layers, in order.

        Raises:
            InvalidModelInput: values are not finite in float32 either.
            OutOfMemory: not even one tile fits.
            DeviceLost: the CUDA context is unusable.
        """
        if self.device.type == "cpu":
            return in_threads(tiles, self._run, first_alone=self._sampling.acceleration.compiled)
        return watched(self.in_batches(tiles), self.device)

    def in_batches(self, tiles: Sequence[Tile]) -> Iterator[Found]:
        """Yield batches of tiles that fit the memory of a GPU with their layers, in order."""
        if tiles:
            size = batch_size(self._loaded, self._sampling, lambda: self._plainly(tiles[0]))
            for batch, layers in in_batches(tiles, size, self._run, whole=self._sampling.acceleration.compiled):
                yield batch, layers[: len(batch)]

    def _plainly(self, tile: Tile) -> None:
        """Run a tile in its number format and nothing else: one is not worth compiling for."""
        how = replace(self._sampling, acceleration=Acceleration(precision=self._sampling.acceleration.precision))
        list(in_batches([tile], 1, lambda batch: _run(self._loaded, self._inputs, batch, how)))

    def _run(self, batch: list[Tile]) -> FloatArray:
        """Return the layers of a batch, all finite."""
        layers = _run(self._enhancer, self._inputs, batch, self._sampling)
        if np.isfinite(layers).all():
            return layers
        if self._sampling.acceleration.precision is not Precision.FP32:
            layers = self._exact(batch)
        if not np.isfinite(layers).all():
            raise InvalidModelInput(
                f"The model returned values that are not finite near row {batch[0].row}, column {batch[0].column}, in "
                "float32 too; use another model version."
            )
        return layers

    def _exact(self, batch: list[Tile]) -> FloatArray:
        how = self._sampling.acceleration
        if not self._again:
            _log.warning("values are not finite in %s; such tiles are run again in float32", how.precision)
        exact = replace(self._sampling, acceleration=replace(how, precision=Precision.FP32))
        found = in_batches(batch, len(batch), lambda part: _run(self._enhancer, self._inputs, part, exact))
        layers = np.concatenate([part for _, part in found])
        self._again.update(batch)
        return layers


@torch.inference_mode()
def _run(enhancer: Enhancer, inputs: Inputs, batch: list[Tile], sampling: Sampling) -> FloatArray:
    """Return layers `(tile, 3 band + 1, y, x)` of a batch, whether finite or not."""
    device = next(enhancer.parameters()).device
    reference = None if inputs.reference is None else _cut(inputs.reference, batch, device)
    cloudy = _cut(inputs.scene, batch, device)
    condition = condition_of(enhancer, cloudy, reference, sampling.acceleration.precision)
    fields = [NoiseField(sampling.seed, sample) for sample in range(sampling.samples)]
    images, weights = [], []
    for group in _groups(fields, _SAMPLES_AT_ONCE if device.type == "cpu" else 1):
        noise = TileNoise(tuple(group), tuple(batch), inputs.origin, len(inputs.scene), device)
        found = sampled(enhancer, sampling, repeated(condition, len(group)), noise)
        images.append(from_unit(enhancer.finish(found.image)).unflatten(0, (-1, len(group))))
        weights.append(found.weight.mean(dim=1, keepdim=True).unflatten(0, (-1, len(group))))
    return _summary(torch.cat(images, dim=1), torch.cat(weights, dim=1), condition).cpu().numpy()


def sampled(enhancer: Enhancer, sampling: Sampling, condition: Condition, noise: NoiseSource) -> Sample:
    """Return the clear images of a batch and their last W."""
    start = None if sampling.start is None else Start(sampling.start, condition.reference)
    estimator = BoundEstimator(enhancer, condition, sampling.eta, sampling.acceleration.precision)
    return SAMPLERS[sampling.sampler](estimator, Walk(enhancer.schedule, sampling.steps, noise, start))


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
