"""Restore the needed pixels of a scene with Diffusion Enhancement, tile by tile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from de_model.enhancer import Condition, Enhancer
from de_model.errors import InvalidModelInput
from de_model.inference.accelerated import accelerated
from de_model.inference.batching import in_batches
from de_model.inference.conditioning import BoundEstimator, condition_of, repeated
from de_model.inference.frame import Frame
from de_model.inference.noise_field import NoiseField, TileNoise
from de_model.inference.part import Part
from de_model.inference.sampling import Sampling
from de_model.inference.threads import in_threads
from de_model.inference.tiles import Tile, blending_window, plan_tiles
from de_model.precision import Precision
from de_model.radiometry import from_unit, to_unsigned
from de_model.samplers.family import sampler_of
from de_model.samplers.walk import Sample, Start, Walk

FloatArray = NDArray[np.float32]
T = TypeVar("T")
Progress = Callable[[int, int], None]

_log = logging.getLogger(__name__)

#: Samples of a tile that a CPU evaluates together: small tiles gain a fifth, larger groups gain nothing.
_SAMPLES_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Restoration:
    """What the model says about a scene; NaN outside the tiles that were run."""

    #: Restored surface reflectance `(band, y, x)`, 0..1.
    image: FloatArray
    #: W averaged over bands and samples `(y, x)`, eta..1.
    reference_weight: FloatArray
    #: Standard deviation over samples `(band, y, x)`, reflectance; 0 with one sample.
    spread: FloatArray
    #: The reference alone `(band, y, x)`, reflectance: the network's, or the given one where it was given.
    reference: FloatArray
    #: Number of tiles run.
    tiles: int
    #: Of these, tiles run again in float32 because values of a shorter format were not finite.
    redone: int = 0

    def window(self, at: tuple[slice, slice]) -> Restoration:
        """Return the layers of a window; the tiles are those of the whole."""
        image, spread, reference = (layer[:, *at] for layer in (self.image, self.spread, self.reference))
        return replace(
            self, image=image, spread=spread, reference=reference, reference_weight=self.reference_weight[at]
        )


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What tiles are cut from: canvases `(band, y, x)` in reflectance."""

    #: Finite everywhere.
    scene: FloatArray
    #: Not finite where the network's reference is wanted.
    reference: FloatArray | None
    #: Absolute row and column of the first pixel.
    origin: tuple[int, int]


class _Canvas:
    """Weighted sums over overlapping tiles."""

    def __init__(self, bands: int, shape: tuple[int, int], window: FloatArray) -> None:
        self.layers = np.zeros((3 * bands + 1, *shape), dtype=np.float32)
        self.weight = np.zeros(shape, dtype=np.float32)
        self.window = window

    def add(self, tile: Tile, layers: FloatArray) -> None:
        self.layers[:, *tile.window] += layers * self.window
        self.weight[tile.window] += self.window

    def mean(self) -> FloatArray:
        empty = self.weight == 0
        blended = self.layers / np.where(empty, np.float32(1), self.weight)
        blended[:, empty] = np.nan
        return blended.astype(np.float32, copy=False)


class _Blending:
    """Adds batches of tiles to a canvas in their order; beside a GPU, while it computes the next batch.

    The model stays in the thread of its caller, where CUDA graphs were recorded.
    """

    def __init__(self, canvas: _Canvas, *, beside: bool) -> None:
        self._canvas = canvas
        self._pool = ThreadPoolExecutor(1, "unveil-blending") if beside else None
        self._last: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        self._wait()

    def add(self, batch: list[Tile], layers: FloatArray) -> None:
        """Add a batch, or have it added; no more than one waits."""
        self._wait()
        if self._pool is None:
            self._add(batch, layers)
        else:
            self._last = self._pool.submit(self._add, batch, layers)

    def _add(self, batch: list[Tile], layers: FloatArray) -> None:
        for tile, found in zip(batch, layers, strict=True):
            self._canvas.add(tile, found)

    def _wait(self) -> None:
        if self._last is not None:
            self._last.result()


def restore(
    enhancer: Enhancer,
    scene: FloatArray,
    needed: NDArray[np.bool_],
    sampling: Sampling,
    on_tile: Progress | None = None,
    origin: tuple[int, int] = (0, 0),
    reference: FloatArray | None = None,
    part: Part | None = None,
) -> Restoration:
    """Restore the needed pixels of a scene, or of a part of it.

    Args:
        enhancer: the model; its device is used.
        scene: surface reflectance `(band, y, x)` as observed, clouds included, NaN at nodata.
        needed: `(y, x)`, True where a result is wanted.
        sampling: seed, samples, sampler, steps, eta and tiling.
        on_tile: called with (tiles done, tiles in all) after each batch.
        origin: absolute row and column of the scene's first pixel, the address in the noise field.
        reference: surface reflectance `(band, y, x)` to use instead of the reference network's, for example a composite
            of other dates; the network stays where a pixel is not finite in every band.
        part: where the arrays lie when they are a window of a larger scene; `origin` is then that of the whole scene,
            and the result is what the whole scene would give, bit for bit on a CPU.

    Raises:
        InvalidModelInput: bands or shapes do not fit, a value of `sampling` is out of range, or the
            model gives values that are not finite.
        OutOfMemory: not even one tile fits into memory.
    """
    sampling.check(enhancer)
    _check_scene(enhancer, scene, needed, reference)
    part = part or Part(needed.shape, (0, 0), fill_level(scene))
    part.check(needed.shape)
    bands, size, overlap = len(scene), sampling.tile, sampling.overlap
    whole = Frame.around(part.scene, origin, size, sampling.grid)
    frame = whole.part(part.offset, needed.shape)
    given = None if reference is None else frame.mirror(reference)
    inputs = _Inputs(frame.mirror(_fill_nodata(scene, part.fill)), given, frame.origin)
    wanted = frame.surround(needed)
    corner = (frame.origin[0] - whole.origin[0], frame.origin[1] - whole.origin[1])
    tiles = plan_tiles(wanted, size, overlap, whole.canvas_shape, corner)
    canvas = _Canvas(bands, wanted.shape, blending_window(size, overlap))
    runner = _Runner(accelerated(enhancer, sampling.acceleration), inputs, sampling)
    done = 0
    with _Blending(canvas, beside=runner.device.type != "cpu") as blending:
        for batch, found in runner.results(tiles):
            blending.add(batch, found)
            done += len(batch)
            if on_tile is not None:
                on_tile(done, len(tiles))
    blended = frame.crop(canvas.mean())
    image, spread, used, weight = np.split(blended, [bands, 2 * bands, 3 * bands])
    return Restoration(image, weight[0], spread, used, len(tiles), runner.redone)


def _check_scene(
    enhancer: Enhancer, scene: FloatArray, needed: NDArray[np.bool_], reference: FloatArray | None
) -> None:
    bands = enhancer.card.bands
    if scene.ndim != 3 or scene.shape[0] != len(bands):
        raise InvalidModelInput(f"Scene of shape {scene.shape}; the model wants (band, y, x) with bands {bands}.")
    if needed.shape != scene.shape[1:]:
        raise InvalidModelInput(f"Mask of shape {needed.shape} for a scene of shape {scene.shape[1:]}.")
    if reference is not None and reference.shape != scene.shape:
        raise InvalidModelInput(f"Reference of shape {reference.shape} for a scene of shape {scene.shape}.")


def fill_level(scene: FloatArray) -> tuple[float, ...]:
    """Return the median of every band over the pixels that hold data in all; 0 where none does."""
    valid = np.isfinite(scene).all(axis=0)
    level = np.median(scene[:, valid], axis=1) if valid.any() else np.zeros(len(scene))
    return tuple(float(value) for value in level)


def _fill_nodata(scene: FloatArray, level: tuple[float, ...]) -> FloatArray:
    """Return the scene with NaN replaced by the bands' levels, so that edges look like ordinary ground."""
    missing = np.isnan(scene)
    if not missing.any():
        return scene
    return np.where(missing, np.array(level, np.float32)[:, None, None], scene).astype(np.float32)


def _batches(things: list[T], size: int) -> Iterator[list[T]]:
    remaining = iter(things)
    while batch := list(islice(remaining, size)):
        yield batch


class _Runner:
    """Runs batches of tiles; what overflows a short number format is run again in float32."""

    def __init__(self, enhancer: Enhancer, inputs: _Inputs, sampling: Sampling) -> None:
        self.enhancer, self.inputs, self.sampling = enhancer, inputs, sampling
        self.device = next(enhancer.parameters()).device
        self._again: list[Tile] = []

    @property
    def redone(self) -> int:
        """Tiles run again so far."""
        return len(self._again)

    def results(self, tiles: list[Tile]) -> Iterator[tuple[list[Tile], FloatArray]]:
        """Yield batches of tiles with their layers, in order."""
        if self.device.type == "cpu":
            return in_threads(tiles, self, first_alone=self.sampling.acceleration.compiled)
        return in_batches(tiles, self.sampling.batch, self)

    def __call__(self, batch: list[Tile]) -> FloatArray:
        """Return layers `(tile, 3 band + 1, y, x)`: image, spread, reference in reflectance, and W.

        Raises:
            InvalidModelInput: values are not finite in float32 either.
        """
        layers = _run(self.enhancer, self.inputs, batch, self.sampling)
        if np.isfinite(layers).all():
            return layers
        how = self.sampling.acceleration
        if how.precision is not Precision.FP32:
            if not self._again:
                _log.warning("values are not finite in %s; such tiles are run again in float32", how.precision)
            exact = replace(self.sampling, acceleration=replace(how, precision=Precision.FP32))
            layers = _run(self.enhancer, self.inputs, batch, exact)
            self._again += batch
        if not np.isfinite(layers).all():
            raise InvalidModelInput(
                f"The model returned values that are not finite near row {batch[0].row}, column {batch[0].column}, in "
                "float32 too; use another model version."
            )
        return layers


@torch.inference_mode()
def _run(enhancer: Enhancer, inputs: _Inputs, batch: list[Tile], sampling: Sampling) -> FloatArray:
    """Return layers `(tile, 3 band + 1, y, x)` of a batch, whether finite or not."""
    device = next(enhancer.parameters()).device
    reference = None if inputs.reference is None else _cut(inputs.reference, batch).to(device)
    cloudy = _cut(inputs.scene, batch).to(device)
    condition = condition_of(enhancer, cloudy, reference, sampling.acceleration.precision)
    fields = [NoiseField(sampling.seed, sample) for sample in range(sampling.samples)]
    images, weights = [], []
    for group in _batches(fields, _SAMPLES_AT_ONCE if device.type == "cpu" else 1):
        noise = TileNoise(tuple(group), tuple(batch), inputs.origin, len(inputs.scene), device)
        found = _walk(enhancer, repeated(condition, len(group)), noise, sampling)
        images.append(from_unit(enhancer.finish(found.image)).unflatten(0, (-1, len(group))))
        weights.append(found.weight.mean(dim=1, keepdim=True).unflatten(0, (-1, len(group))))
    return _summary(torch.cat(images, dim=1), torch.cat(weights, dim=1), condition)


def _walk(enhancer: Enhancer, condition: Condition, noise: TileNoise, sampling: Sampling) -> Sample:
    start = None if sampling.start is None else Start(sampling.start, condition.reference)
    walk = Walk(enhancer.schedule, sampling.steps, noise, start)
    estimator = BoundEstimator(enhancer, condition, sampling.eta, sampling.steps, sampling.acceleration)
    return sampler_of(sampling.sampler)(estimator, walk)


def _cut(canvas: FloatArray, batch: list[Tile]) -> Tensor:
    """Return the tiles of a canvas, `(tile, band, y, x)`."""
    return torch.from_numpy(np.stack([canvas[:, *tile.window] for tile in batch]))


def _summary(images: Tensor, weights: Tensor, condition: Condition) -> FloatArray:
    """Reduce `(tile, sample, band, y, x)` to mean and deviation, and add reference and mean W."""
    mean = images.mean(dim=1)
    # A tenth of the time of `std`, which reduces this axis slowly.
    squares = (images - mean[:, None]).square().sum(dim=1)
    spread = (squares / max(1, images.shape[1] - 1)).sqrt()
    reference = from_unit(to_unsigned(condition.reference))
    layers = torch.cat([mean, spread, reference, weights.mean(dim=1)], dim=1)
    return layers.float().cpu().numpy()
