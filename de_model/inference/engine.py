"""Restore the needed pixels of a scene with Diffusion Enhancement, tile by tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.inference.blending import Plan
from de_model.inference.part import Part
from de_model.inference.running import Inputs, run_tiles
from de_model.inference.sampling import Sampling
from de_model.scene.observation import Levels, Observation, SceneClass, classes_of, levels_of
from de_model.scene.restoring import restore_observation

FloatArray = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Restoration:
    """What the model says about a scene; NaN outside the tiles that were run."""

    #: Restored surface reflectance `(band, y, x)`, 0..1.
    image: FloatArray
    #: W averaged over bands and samples `(y, x)`, eta..1.
    reference_weight: FloatArray
    #: Standard deviation `(band, y, x)`, reflectance: as the model predicts it, over samples with the first edition.
    spread: FloatArray
    #: The reference alone `(band, y, x)`, reflectance: the network's, or the given one where it was given.
    reference: FloatArray
    #: Number of tiles run.
    tiles: int

    def window(self, at: tuple[slice, slice]) -> Restoration:
        """Return the layers of a window; the tiles are those of the whole."""
        image, spread, reference = (layer[:, *at] for layer in (self.image, self.spread, self.reference))
        return replace(
            self, image=image, spread=spread, reference=reference, reference_weight=self.reference_weight[at]
        )


def restore(
    enhancer: Enhancer,
    scene: FloatArray,
    needed: NDArray[np.bool_],
    sampling: Sampling,
    on_tile: Progress | None = None,
    origin: tuple[int, int] = (0, 0),
    reference: FloatArray | None = None,
    part: Part | None = None,
    hidden: NDArray[np.bool_] | None = None,
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
        hidden: `(y, x)`, every pixel that does not show the ground, needed or not; the needed ones when left out. To
            models of the second edition the rest is known ground.

    Raises:
        InvalidModelInput: bands or shapes do not fit, a value of `sampling` is out of range, or the
            model gives values that are not finite.
        OutOfMemory: not even one tile fits into memory.
    """
    sampling.check(enhancer)
    _check_scene(enhancer, scene, needed, reference)
    part = part or Part(needed.shape, (0, 0), fill_level(scene))
    if enhancer.scene is not None:
        return _restore_standardised(
            enhancer, scene, needed, needed if hidden is None else hidden, sampling, on_tile, origin, part
        )
    bands, plan = len(scene), Plan.of(needed, sampling, origin, part)
    given = None if reference is None else plan.frame.mirror(reference)
    inputs = Inputs(plan.frame.mirror(_fill_nodata(scene, part.fill)), given, plan.frame.origin)
    blended = plan.blended(run_tiles(enhancer, inputs, sampling, plan.tiles), 3 * bands + 1, on_tile)
    image, spread, used, weight = np.split(blended, [bands, 2 * bands, 3 * bands])
    return Restoration(image, weight[0], spread, used, len(plan.tiles))


def _restore_standardised(
    enhancer: Enhancer,
    scene: FloatArray,
    needed: NDArray[np.bool_],
    hidden: NDArray[np.bool_],
    sampling: Sampling,
    on_tile: Progress | None,
    origin: tuple[int, int],
    part: Part,
) -> Restoration:
    """Restore with a model of the second edition what is needed, knowing the rest of the scene as it is."""
    networks, design = enhancer.scene, enhancer.card.scene
    if networks is None or design is None:
        raise InvalidModelInput(f"Model {enhancer.card.preset} is of the first edition; it works on companded tiles.")
    levels = part.levels or scene_levels(scene, hidden)
    seen = Observation(scene, classes_of(scene, hidden, levels), gsd_m=enhancer.card.gsd_m)
    found = restore_observation(networks, design, seen, needed, sampling, levels, on_tile, origin, part)
    return Restoration(found.image, found.reference_weight, found.deviation, found.reference, found.tiles)


def scene_levels(scene: FloatArray, hidden: NDArray[np.bool_]) -> Levels:
    """Return the levels of a scene outside the hidden pixels; arguments as for `restore`."""
    classes = np.where(hidden, SceneClass.THICK, SceneClass.CLEAR).astype(np.uint8)
    classes[~np.isfinite(scene).all(axis=0)] = SceneClass.NODATA
    return levels_of(scene, classes)


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
