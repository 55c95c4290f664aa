"""Restore the needed pixels of a scene with Diffusion Enhancement, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from de_model.enhancer import Condition, Enhancer, Estimate
from de_model.errors import InvalidModelInput
from de_model.inference.noise_field import NoiseField
from de_model.inference.tiles import Tile, blending_window, plan_tiles
from de_model.radiometry import from_unit, to_unit, to_unsigned
from de_model.samplers import ddim

FloatArray = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a scene is restored; recorded with every product."""

    seed: int = 0
    #: Independent samples per tile; their mean is the image, their deviation the spread.
    samples: int = 2
    #: DDIM evaluations per sample.
    steps: int = 10
    #: Floor of the reference's share, 0..1.
    eta: float = 0.3
    #: Side of a tile, pixels.
    tile: int = 128
    overlap: int = 32
    #: Tiles run at once.
    batch: int = 4

    def check(self, enhancer: Enhancer) -> None:
        """Raise `InvalidModelInput` when a value cannot work with `enhancer`."""
        if self.samples < 1 or self.batch < 1:
            raise InvalidModelInput(f"samples={self.samples} and batch={self.batch} must both be at least 1.")
        if self.tile < enhancer.stride or self.tile % enhancer.stride:
            raise InvalidModelInput(f"Tile of {self.tile} px; choose a multiple of {enhancer.stride} px.")
        if not 0 <= self.eta <= 1:
            raise InvalidModelInput(f"eta is {self.eta}; it must lie in 0..1.")


@dataclass(frozen=True, slots=True)
class Restoration:
    """What the model says about a scene; NaN outside the tiles that were run."""

    #: Restored surface reflectance `(band, y, x)`, 0..1.
    image: FloatArray
    #: W averaged over bands and samples `(y, x)`, eta..1.
    reference_weight: FloatArray
    #: Standard deviation over samples `(band, y, x)`, reflectance; 0 with one sample.
    spread: FloatArray
    #: The reference network alone `(band, y, x)`, reflectance.
    reference: FloatArray
    #: Number of tiles run.
    tiles: int


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


def restore(
    enhancer: Enhancer,
    scene: FloatArray,
    needed: NDArray[np.bool_],
    sampling: Sampling,
    on_tile: Progress | None = None,
    origin: tuple[int, int] = (0, 0),
) -> Restoration:
    """Restore the needed pixels of a scene.

    Args:
        enhancer: the model; its device is used.
        scene: surface reflectance `(band, y, x)` as observed, clouds included, NaN at nodata.
        needed: `(y, x)`, True where a result is wanted.
        sampling: seed, samples, steps, eta and tiling.
        on_tile: called with (tiles done, tiles in all) after each batch.
        origin: absolute row and column of the scene's first pixel, the address in the noise field.

    Raises:
        InvalidModelInput: bands or shapes do not fit, a value of `sampling` is out of range, or the
            model gives values that are not finite.
    """
    sampling.check(enhancer)
    _check_scene(enhancer, scene, needed)
    bands, height, width = scene.shape
    padded, wanted = _pad(_fill_nodata(scene), needed, sampling.tile)
    tiles = plan_tiles(wanted, sampling.tile, sampling.overlap)
    canvas = _Canvas(bands, wanted.shape, blending_window(sampling.tile, sampling.overlap))
    done = 0
    for batch in _batches(tiles, sampling.batch):
        for tile, layers in zip(batch, _run(enhancer, padded, batch, sampling, origin), strict=True):
            canvas.add(tile, layers)
        done += len(batch)
        if on_tile is not None:
            on_tile(done, len(tiles))
    blended = canvas.mean()[:, :height, :width]
    image, spread, reference, weight = np.split(blended, [bands, 2 * bands, 3 * bands])
    return Restoration(image, weight[0], spread, reference, len(tiles))


def _check_scene(enhancer: Enhancer, scene: FloatArray, needed: NDArray[np.bool_]) -> None:
    bands = enhancer.card.bands
    if scene.ndim != 3 or scene.shape[0] != len(bands):
        raise InvalidModelInput(f"Scene of shape {scene.shape}; the model wants (band, y, x) with bands {bands}.")
    if needed.shape != scene.shape[1:]:
        raise InvalidModelInput(f"Mask of shape {needed.shape} for a scene of shape {scene.shape[1:]}.")


def _fill_nodata(scene: FloatArray) -> FloatArray:
    """Return the scene with NaN replaced by the band's median, so that edges look like ordinary ground."""
    missing = np.isnan(scene)
    if not missing.any():
        return scene
    valid = ~missing.any(axis=0)
    level = np.median(scene[:, valid], axis=1) if valid.any() else np.zeros(len(scene))
    return np.where(missing, level[:, None, None], scene).astype(np.float32)


def _pad(scene: FloatArray, needed: NDArray[np.bool_], size: int) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Mirror a scene that is smaller than a tile out to the tile's size, on its far sides."""
    grow = [(0, max(0, size - n)) for n in needed.shape]
    return np.pad(scene, [(0, 0), *grow], mode="symmetric"), np.pad(needed, grow)


def _batches(tiles: list[Tile], size: int) -> Iterator[list[Tile]]:
    remaining = iter(tiles)
    while batch := list(islice(remaining, size)):
        yield batch


@torch.inference_mode()
def _run(
    enhancer: Enhancer, scene: FloatArray, batch: list[Tile], sampling: Sampling, origin: tuple[int, int]
) -> FloatArray:
    """Return layers `(tile, 3 band + 1, y, x)`: image, spread, reference in reflectance, and W."""
    device = next(enhancer.parameters()).device
    stack = np.stack([scene[:, *tile.window] for tile in batch])
    condition = enhancer.condition(to_unit(torch.from_numpy(stack).to(device)))

    def estimate(x_t: Tensor, t: Tensor) -> Estimate:
        return enhancer.estimate(x_t, condition, t, sampling.eta)

    images, weights = [], []
    for sample in range(sampling.samples):
        noise = _noise(batch, sampling, sample, origin, stack.shape[1]).to(device)
        found = ddim(estimate, noise, enhancer.schedule, sampling.steps)
        images.append(from_unit(enhancer.finish(found.image)))
        weights.append(found.weight.mean(dim=1, keepdim=True))
    layers = _summary(torch.stack(images), torch.stack(weights), condition)
    if not np.isfinite(layers).all():
        first = batch[0]
        raise InvalidModelInput(
            f"The model returned values that are not finite near row {first.row}, column "
            f"{first.column}; run again in float32 or with another model version."
        )
    return layers


def _noise(batch: list[Tile], sampling: Sampling, sample: int, origin: tuple[int, int], bands: int) -> Tensor:
    field = NoiseField(sampling.seed, sample)
    parts = [field.window(origin[0] + t.row, origin[1] + t.column, (t.size, t.size), bands) for t in batch]
    return torch.from_numpy(np.stack(parts))


def _summary(images: Tensor, weights: Tensor, condition: Condition) -> FloatArray:
    """Reduce `(sample, tile, band, y, x)` to mean and deviation, and add reference and mean W."""
    spread = images.std(dim=0, unbiased=True) if len(images) > 1 else torch.zeros_like(images[0])
    reference = from_unit(to_unsigned(condition.reference))
    layers = torch.cat([images.mean(dim=0), spread, reference, weights.mean(dim=0)], dim=1)
    return layers.float().cpu().numpy()
