"""Running tiles through the model: cut out, walked, brought back, and run again where numbers overflowed."""

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
from de_model.inference.accelerated import accelerated
from de_model.inference.acceleration import Acceleration
from de_model.inference.batch_size import batch_size
from de_model.inference.batching import in_batches
from de_model.inference.conditioning import condition_of, repeated
from de_model.inference.lost_device import watched
from de_model.inference.noise_field import NoiseField, TileNoise
from de_model.inference.sampling import Sampling
from de_model.inference.threads import in_threads
from de_model.inference.tiles import Tile
from de_model.inference.transfers import Arriving, Transfers
from de_model.inference.walking import walk, walk_whole
from de_model.precision import Precision
from de_model.radiometry import from_unit, to_unsigned

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
        self._transfers = Transfers(self.device)
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
            DeviceLost: the GPU does not answer any more.
        """
        return self._on_cores(tiles) if self.device.type == "cpu" else watched(self.overlapped(tiles), self.device)

    def overlapped(self, tiles: Sequence[Tile]) -> Iterator[Found]:
        """Yield batches of tiles in order: the next one is launched before the results of one are waited for."""
        if not tiles:
            return
        before: tuple[list[Tile], Arriving] | None = None
        size = batch_size(self._loaded, self._sampling, lambda: self._plainly(tiles[0]))
        whole = self._sampling.acceleration.by_shape
        for launched in in_batches(tiles, size, self._launch, whole=whole):
            if before is not None:
                yield self._arrived(*before)
            before = launched
        if before is not None:
            yield self._arrived(*before)

    def _on_cores(self, tiles: Sequence[Tile]) -> Iterator[Found]:
        first_alone = self._sampling.acceleration.compiled
        return in_threads(tiles, lambda batch: self._arrived(batch, self._launch(batch))[1], first_alone=first_alone)

    def _plainly(self, tile: Tile) -> None:
        """Run a tile in its number format and nothing else: one is not worth compiling or recording for."""
        how = replace(self._sampling, acceleration=Acceleration(precision=self._sampling.acceleration.precision))

        def run(batch: list[Tile]) -> FloatArray:
            return _run(self._loaded, self._inputs, batch, how, self._transfers).result()

        list(in_batches([tile], 1, run))

    def _launch(self, batch: list[Tile]) -> Arriving:
        return _run(self._enhancer, self._inputs, batch, self._sampling, self._transfers)

    def _arrived(self, batch: list[Tile], arriving: Arriving) -> Found:
        """Return the layers of a batch, which may have been filled up, all finite."""
        layers = arriving.result()[: len(batch)]
        if np.isfinite(layers).all():
            return batch, layers
        if self._sampling.acceleration.precision is not Precision.FP32:
            layers = self._exact(batch)
        if not np.isfinite(layers).all():
            raise InvalidModelInput(
                f"The model returned values that are not finite near row {batch[0].row}, column {batch[0].column}, in "
                "float32 too; use another model version."
            )
        return batch, layers

    def _exact(self, batch: list[Tile]) -> FloatArray:
        how = self._sampling.acceleration
        if not self._again:
            _log.warning("values are not finite in %s; such tiles are run again in float32", how.precision)
        # Rare enough to be launched step by step.
        exact = replace(self._sampling, acceleration=replace(how, precision=Precision.FP32, cuda_graph=False))

        def run(part: list[Tile]) -> FloatArray:
            return _run(self._enhancer, self._inputs, part, exact, self._transfers).result()

        layers = np.concatenate([found for _, found in in_batches(batch, len(batch), run)])
        self._again.update(batch)
        return layers


@torch.inference_mode()
def _run(enhancer: Enhancer, inputs: Inputs, batch: list[Tile], sampling: Sampling, transfers: Transfers) -> Arriving:
    """Return layers `(tile, 3 band + 1, y, x)` of a batch, whether finite or not."""
    reference = None if inputs.reference is None else transfers.upload(_cut(inputs.reference, batch))
    cloudy = transfers.upload(_cut(inputs.scene, batch))
    condition = condition_of(enhancer, cloudy, reference, sampling.acceleration.precision)
    fields = [NoiseField(sampling.seed, sample) for sample in range(sampling.samples)]
    on_cpu = cloudy.device.type == "cpu"
    walker = walk_whole if sampling.acceleration.cuda_graph and not on_cpu else walk
    images, weights = [], []
    for group in _groups(fields, _SAMPLES_AT_ONCE if on_cpu else 1):
        noise = TileNoise(tuple(group), tuple(batch), inputs.origin, len(inputs.scene), cloudy.device)
        found = walker(enhancer, sampling, repeated(condition, len(group)), noise)
        images.append(from_unit(enhancer.finish(found.image)).unflatten(0, (-1, len(group))))
        weights.append(found.weight.mean(dim=1, keepdim=True).unflatten(0, (-1, len(group))))
    return transfers.download(_summary(torch.cat(images, dim=1), torch.cat(weights, dim=1), condition))


def _groups(things: list[T], size: int) -> Iterator[list[T]]:
    remaining = iter(things)
    while group := list(islice(remaining, size)):
        yield group


def _cut(canvas: FloatArray, batch: list[Tile]) -> list[FloatArray]:
    return [canvas[:, *tile.window] for tile in batch]


def _summary(images: Tensor, weights: Tensor, condition: Condition) -> Tensor:
    """Reduce `(tile, sample, band, y, x)` to mean and deviation, and add reference and mean W."""
    mean = images.mean(dim=1)
    # A tenth of the time of `std`, which reduces this axis slowly.
    squares = (images - mean[:, None]).square().sum(dim=1)
    spread = (squares / max(1, images.shape[1] - 1)).sqrt()
    reference = from_unit(to_unsigned(condition.reference))
    return torch.cat([mean, spread, reference, weights.mean(dim=1)], dim=1).float()
