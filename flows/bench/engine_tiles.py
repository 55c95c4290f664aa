"""What tiles cost, whether they can be seen, and whether time follows the clouds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from de_model.bench.blended_steps import restore_blending_each_step
from de_model.bench.cost import flops_of
from de_model.bench.tiling import psnr, redundancy, seam_ratio, tiles_of, whole_redundancy
from de_model.enhancer import Enhancer
from de_model.inference.engine import restore
from de_model.inference.sampling import Sampling
from flows.bench.engine_case import BoolArray, FloatArray, Made, timed
from flows.bench.engine_figures import EachStep, Proportion, TilingFigures, Utilisation
from flows.models.evaluation_cases import Case
from flows.progress import tell
from stac.masks.classes import is_obscured

#: Shares of the tiles that are needed.
_FRACTIONS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
#: Sides and overlaps of tiles: the defaults, and those that were before, an eighth and a quarter of a side.
TILINGS = ((64, 4), (64, 8), (128, 8), (128, 32), (256, 16))
#: Side of a Sentinel-2 tile at 10 m, pixels.
_WHOLE = 10980


def proportions(case: Case, enhancer: Enhancer, sampling: Sampling) -> tuple[Proportion, ...]:
    """Return the time of a scene of which more and more tiles are needed, chosen by chance, one pixel in each."""
    scene, shape = case.stack.reflectance(case.target), case.where.shape
    every = tiles_of(np.ones(shape, bool), sampling)
    order = np.random.default_rng(0).permutation(len(every))
    found = []
    for number, fraction in enumerate(_FRACTIONS):
        tell("shares of the tiles", number, len(_FRACTIONS))
        needed = np.zeros(shape, bool)
        for index in order[: round(fraction * len(every))]:
            tile = every[index]
            # The middle of a tile is no other tile's.
            needed[tile.row + tile.size // 2, tile.column + tile.size // 2] = True
        made = _restored(enhancer, scene, needed, sampling)
        found.append(Proportion(made.tiles / len(every), made.tiles, made.seconds))
    return tuple(found)


def tilings(
    case: Case, enhancer: Enhancer, sampling: Sampling, sizes: Sequence[tuple[int, int]]
) -> tuple[tuple[TilingFigures, ...], float]:
    """Return the figures of every tiling, and the PSNR of the scene in one tile against the truth, dB.

    Sizes are (side, overlap) of tiles. The scene's side must be a multiple of the model's stride.
    """
    scene, everything = case.stack.reflectance(case.target), np.ones(case.where.shape, bool)
    hidden = is_obscured(case.stack.classes[case.target])
    tell("one tile for all")
    side = len(everything)
    untiled = _restored(enhancer, scene, everything, replace(sampling, tile=side, overlap=0)).image
    found = []
    for number, (tile, overlap) in enumerate(sizes):
        tell(f"tiles of {tile} px that share {overlap}", number, len(sizes))
        tiled = replace(sampling, tile=tile, overlap=overlap)
        made = _restored(enhancer, scene, everything, tiled)
        found.append(
            TilingFigures(
                tile,
                overlap,
                redundancy(everything, tiled),
                whole_redundancy(_WHOLE, tiled),
                redundancy(hidden, tiled),
                made.seconds,
                seam_ratio(made.image, tiled),
                seam_ratio(untiled, tiled),
                psnr(made.image, untiled, everything),
                psnr(made.image, case.truth, case.where),
                _each_step(case, enhancer, tiled, untiled),
            )
        )
    return tuple(found), psnr(untiled, case.truth, case.where)


def _each_step(case: Case, enhancer: Enhancer, sampling: Sampling, untiled: FloatArray) -> EachStep:
    scene, everything = case.stack.reflectance(case.target), np.ones(case.where.shape, bool)
    count = len(tiles_of(everything, sampling))
    device = next(enhancer.parameters()).device
    made = timed(lambda: Made(restore_blending_each_step(enhancer, scene, sampling), count), device)
    return EachStep(
        made.seconds,
        seam_ratio(made.image, sampling),
        psnr(made.image, untiled, everything),
        psnr(made.image, case.truth, case.where),
    )


def utilisation(case: Case, enhancer: Enhancer, sampling: Sampling) -> Utilisation:
    """Return what the engine makes of the machine on a scene that is needed everywhere."""
    tell("utilisation of the machine")
    scene, everything = case.stack.reflectance(case.target), np.ones(case.where.shape, bool)
    one = np.zeros_like(everything)
    one[0, 0] = True
    flops = flops_of(lambda: restore(enhancer, scene, one, sampling))
    made = _restored(enhancer, scene, everything, sampling)
    return Utilisation(made.tiles, made.seconds, made.tiles * flops, 1 / redundancy(everything, sampling))


def _restored(enhancer: Enhancer, scene: FloatArray, needed: BoolArray, sampling: Sampling) -> Made:
    def work() -> Made:
        found = restore(enhancer, scene, needed, sampling)
        return Made(found.image, found.tiles, found.redone)

    return timed(work, next(enhancer.parameters()).device)
