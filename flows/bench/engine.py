"""Measure the engine on real imagery: speed against quality, tiles against none, and both against the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from de_model import checkpoint
from de_model.bench.clock import one_thread
from de_model.bench.peak import copy_bandwidth, matmul_peak
from de_model.inference.sampling import Sampling
from de_model.precision import Precision
from flows.bench.disk import disk_rates
from flows.bench.engine_case import engine_case, part_of
from flows.bench.engine_figures import EngineFigures, Limits
from flows.bench.engine_tiles import TILINGS, proportions, tilings, utilisation
from flows.bench.engine_ways import FAITHFUL, options_of, options_on_gpu, options_tried, products, unseen_share
from flows.progress import tell
from flows.restoration_options import RestorationOptions
from stac.masks.classes import is_obscured


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sides of the scenes, pixels, multiples of the model's stride."""

    #: For the options of the model alone.
    options: int = 128
    #: For shares of tiles and for tilings.
    tiles: int = 384
    #: For whole products; the whole scene when None.
    product: int | None = None


_SIZES = Sizes()


def bench_engine(
    options: RestorationOptions,
    single: Sampling,
    sizes: Sizes = _SIZES,
    ways: Mapping[str, Sampling] | None = None,
) -> EngineFigures:
    """Measure the shipped model on the GPU where there is one, else on one thread of the CPU.

    Args:
        options: how the product is made by default.
        single: how the model restores whole clouds by default, without other dates.
        sizes: of the scenes; smaller ones for a trial.
        ways: of the model alone, by name; every option when left out.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    enhancer, case = checkpoint.load(checkpoint.shipped_weights(), device.type), engine_case()
    scene, gaps = part_of(case, sizes.tiles), replace(options.sampling, samples=1)
    whole = case if sizes.product is None else part_of(case, sizes.product)
    with one_thread():
        tell("limits of the machine")
        tried = dict.fromkeys([*TILINGS, (gaps.tile, gaps.overlap), (single.tile, single.overlap)])
        fitting = [each for each in tried if each[0] < sizes.tiles]
        tiled, untiled = tilings(scene, enhancer, replace(single, samples=1), fitting)
        made = products(whole, enhancer, options, single)
        return EngineFigures(
            device=torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
            threads=torch.get_num_threads(),
            limits=_limits(device, single.acceleration.precision),
            hidden=float(is_obscured(whole.stack.classes[whole.target]).mean()),
            unseen=unseen_share(whole, options),
            tiled=made[-1].tiles * gaps.tile**2 / whole.where.size,
            products=made,
            options=options_tried(part_of(case, sizes.options), enhancer, ways or _ways(single, device)),
            proportions=proportions(scene, enhancer, gaps),
            tilings=tiled,
            tiling_gaps=(gaps.tile, gaps.overlap),
            tiling_scenes=(single.tile, single.overlap),
            side=sizes.tiles,
            psnr_untiled=untiled,
            utilisation=utilisation(scene, enhancer, gaps),
        )


def _ways(single: Sampling, device: torch.device) -> dict[str, Sampling]:
    everywhere = options_of(FAITHFUL, single)
    return everywhere | options_on_gpu(single) if device.type == "cuda" else everywhere


def _limits(device: torch.device, precision: Precision) -> Limits:
    dtype = torch.bfloat16 if precision is Precision.BF16 else torch.float32
    return Limits(matmul_peak(device, dtype), copy_bandwidth(device), disk_rates())
