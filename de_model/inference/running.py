"""Running tiles through the model of either edition: cut out, sampled, in threads of a CPU or batches on a GPU."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from de_model.enhancer import Condition, Enhancer, Estimate
from de_model.errors import DeviceLost, InvalidModelInput, OutOfMemory
from de_model.inference.noise_field import NoiseField, TileNoise
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Tile
from de_model.radiometry import from_unit, to_signed, to_unit, to_unsigned
from de_model.sampling.samplers import SAMPLERS, Start, Trajectory, shrink
from de_model.scene.design import SceneDesign
from de_model.scene.model import SceneNetworks
from de_model.scene.networks import Inputs

FloatArray = NDArray[np.float32]
T = TypeVar("T")
_log = logging.getLogger(__name__)

#: What torch says when memory runs out without an error type of its own.
_IN_WORDS = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def on_device(
    tiles: Sequence[Tile], run: Callable[[list[Tile]], T], device: torch.device, at_once: int
) -> Iterator[tuple[list[Tile], T]]:
    """Yield tiles with what `run` makes of them, in order: one in each thread of a CPU, batches on a GPU.

    Args:
        tiles: what is to be run.
        run: returns what it makes of a batch.
        device: that `run` uses.
        at_once: tiles that a GPU is given together; fewer where they do not fit into its memory.

    Raises:
        OutOfMemory: not even one tile fits.
        DeviceLost: the CUDA context is unusable.
    """
    return in_threads(tiles, run) if device.type == "cpu" else watched(in_batches(tiles, at_once, run), device)


def in_batches(tiles: Sequence[Tile], size: int, run: Callable[[list[Tile]], T]) -> Iterator[tuple[list[Tile], T]]:
    """Yield batches of tiles with what `run` makes of each, in order.

    A batch that does not fit into memory is halved and run again, and so are those after it; a warning is logged.

    Args:
        tiles: what is to be run.
        size: tiles in a batch, at least 1.
        run: returns what it makes of a batch.

    Raises:
        OutOfMemory: not even one tile fits.
    """
    done = 0
    while done < len(tiles):
        batch = list(tiles[done : done + size])
        try:
            made = run(batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise OutOfMemory(
                    f"One tile of {batch[0].size} px does not fit into memory; choose a smaller tile, or free memory."
                ) from error
            size = len(batch) // 2
            _log.warning("%d tiles at once do not fit into memory; going on with %d", len(batch), size)
        else:
            done += len(batch)
            yield batch, made
            continue
        # Outside the handler: the error holds the tensors that filled the memory.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error of torch says that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _IN_WORDS)


def in_threads(tiles: Sequence[Tile], run: Callable[[list[Tile]], T]) -> Iterator[tuple[list[Tile], T]]:
    """Yield every tile with what `run` makes of it, in order; as many run at once as torch may use threads.

    Within a tile operators keep to one thread: they divide their sums among threads, so the last bits of a result would
    depend on the number of cores. That many tiles at once use the cores as well, and wait for each other less.

    Args:
        tiles: what is to be run.
        run: returns what it makes of a batch of one tile; called from several threads.

    Raises:
        OutOfMemory: a tile does not fit into memory.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield from in_batches(tiles, 1, run)
        return
    pending: deque[Future[tuple[list[Tile], T]]] = deque()
    with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
        try:
            for tile in tiles:
                pending.append(pool.submit(lambda one: next(in_batches([one], 1, run)), tile))
                # What is done waits to be blended in order; more of it than this is not held.
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for waiting in pending:
                waiting.cancel()
            # What the workers set for themselves is what threads made later would begin with.
            torch.set_num_threads(threads)


def answers(device: torch.device) -> bool:
    """Return whether the CUDA context is usable: after a fatal error every later call of the process fails, too."""
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True


def watched(
    results: Iterator[T], device: torch.device, answers: Callable[[torch.device], bool] = answers
) -> Iterator[T]:
    """Yield results that are made on a device.

    Raises:
        DeviceLost: making them failed, and the CUDA context is unusable.
    """
    try:
        yield from results
    except RuntimeError as error:
        if answers(device):
            raise
        reason = str(error).partition("\n")[0]
        raise DeviceLost(
            f"The GPU {device} no longer answers ({reason}); see the system's log, and start the process again."
        ) from error


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
