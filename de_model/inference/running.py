"""Running tiles through the model of either edition: cut out, sampled, in threads of a CPU or batches on a GPU."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
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
#: Samples of a tile that a CPU evaluates together: small tiles gain a fifth, larger groups gain nothing.
_SAMPLES_AT_ONCE = 4


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
    fields = [NoiseField(sampling.seed, sample) for sample in range(sampling.samples)]
    images, weights = [], []
    for group in _groups(fields, _SAMPLES_AT_ONCE if device.type == "cpu" else 1):
        noise = TileNoise(tuple(group), tuple(batch), canvases.origin, len(canvases.scene), device)
        own = repeated(condition, len(group))
        trajectory = Trajectory(enhancer.schedule, sampling.steps, noise, _start(sampling, own))
        found = SAMPLERS[sampling.sampler](BoundEstimator(enhancer, own, sampling.eta), trajectory)
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
    found = [
        networks.sample(inputs, noise, start, sampling.steps, sampling.eta, reference=belief)
        for noise in _noise(tile, sampling, origin, networks.bands, device)
    ]
    mean = torch.stack([each.mean for each in found]).mean(dim=0)
    log_deviation = torch.stack([each.log_variance for each in found]).mean(dim=0) / 2
    deviation = recalibrated(log_deviation, design.widths).exp()
    weight = torch.stack([each.weight for each in found]).mean(dim=(0, 2))[:, None]
    return torch.cat([mean, deviation, found[0].reference, weight], dim=1).cpu().numpy()


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
