"""One scene restored in many ways, each judged against the paper's way and against the truth."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from de_model.bench.steps import PLAIN
from de_model.enhancer import Enhancer
from de_model.inference.acceleration import Acceleration
from de_model.inference.engine import restore
from de_model.inference.sampling import Sampling
from de_model.metrics.standard import score
from de_model.precision import Precision
from de_model.samplers.kinds import SamplerKind
from flows.bench.engine_case import BoolArray, Made, timed
from flows.bench.engine_figures import WayFigures
from flows.models.evaluation_cases import Case
from flows.progress import tell
from flows.restoration import prepare, prior_of, restore_date
from flows.restoration_options import RestorationOptions
from stac.assembly import ModelResult, assemble, unseen
from stac.layers import ProductLayers
from stac.masks.classes import is_obscured
from stac.priors import Prior
from stac.product import write_product
from stac.reflectance import to_reflectance

#: The paper's way: `Sampling()` as it is, networks as they are written.
FAITHFUL = Sampling(acceleration=PLAIN)
#: Names of the two ways that the others lie between.
PAPERS, DEFAULTS = "the paper's: DDIM-10, plain layout", "default"


def products(case: Case, enhancer: Enhancer, options: RestorationOptions, single: Sampling) -> tuple[WayFigures, ...]:
    """Return whole products, from pixels in memory to written files: the paper's way first, then the default.

    Args:
        case: what is restored.
        enhancer: the shipped model.
        options: how the product is made by default.
        single: how the model restores whole clouds by default, without other dates.
    """
    alone = replace(options, prior=Prior.NONE, sampling=single)
    usual = replace(options.sampling, sampler=single.sampler, steps=single.steps, start=single.start)
    pyramid = replace(usual, sampler=SamplerKind.PYRAMID, steps=2)
    ways: dict[str, Callable[[], Made]] = {
        "the paper's settings, every tile": partial(_faithful_product, case, enhancer),
        "default without other dates": partial(_product, case, enhancer, alone),
        "the walk of whole clouds": partial(_product, case, enhancer, replace(options, sampling=usual)),
        "pyramid, 2 steps": partial(_product, case, enhancer, replace(options, sampling=pyramid)),
        "default": partial(_product, case, enhancer, options),
    }
    return _judged(case, enhancer, ways)


def unseen_share(case: Case, options: RestorationOptions) -> float:
    """Return the share of a scene's pixels that no date saw."""
    prepared = prepare(case.stack, case.target, case.stack.cell, options)
    return float(unseen(case.stack, case.target, prior_of(case.stack, prepared)).mean())


def _faithful_product(case: Case, enhancer: Enhancer) -> Made:
    everything = np.ones(case.where.shape, bool)
    found = restore(enhancer, case.stack.reflectance(case.target), everything, FAITHFUL)
    model = ModelResult(found.image, found.reference_weight, found.spread)
    layers = assemble(case.stack, case.target, None, model)
    return _written(case, layers, found.tiles)


def _product(case: Case, enhancer: Enhancer, options: RestorationOptions) -> Made:
    restored = restore_date(case.stack, case.target, enhancer, options)
    return _written(case, restored.layers, restored.tiles)


def _written(case: Case, layers: ProductLayers, tiles: int) -> Made:
    with tempfile.TemporaryDirectory(prefix="unveil-bench-") as folder:
        write_product([layers], layers.geobox, layers.bands, case.stack.dn[case.target], Path(folder))
    return Made(to_reflectance(layers.data), tiles)


def options_of(faithful: Sampling, single: Sampling) -> dict[str, Sampling]:
    """Return the options by name: the paper's way, the default, the default with one thing changed, and all gains."""
    base = replace(single, samples=faithful.samples)

    def faster(**values: Any) -> Sampling:
        return replace(base, acceleration=replace(base.acceleration, **values))

    return {
        PAPERS: faithful,
        "DDIM-10, channels last": replace(faithful, acceleration=Acceleration()),
        DEFAULTS: base,
        "plain layout": replace(base, acceleration=PLAIN),
        "W every second step": faster(allocation_every=2),
        "Winograd": faster(winograd=True),
        "compiled": faster(compiled=True),
        "UniPC, 4 steps": replace(base, sampler=SamplerKind.UNIPC, steps=4),
        "pyramid, 4 steps": replace(base, sampler=SamplerKind.PYRAMID, steps=4),
        "2 steps": replace(base, steps=2),
        "start at the reference, t = 400, 2 steps": replace(base, steps=2, start=400),
        "start at the reference, t = 200, 1 step (default for gaps)": replace(base, steps=1, start=200),
        "1 sample": replace(base, samples=1),
        "1 sample, bfloat16": replace(faster(precision=Precision.BF16), samples=1),
        "compiled, W every second step": faster(compiled=True, allocation_every=2),
    }


def options_on_gpu(single: Sampling) -> dict[str, Sampling]:
    """Return the default with what only a GPU can do."""

    def faster(**values: Any) -> Sampling:
        return replace(single, acceleration=replace(single.acceleration, cuda_graph=True, **values))

    return {
        "one CUDA graph": faster(),
        "compiled, one CUDA graph": faster(compiled=True),
        "compiled, one CUDA graph, bfloat16": faster(compiled=True, precision=Precision.BF16),
    }


def options_tried(case: Case, enhancer: Enhancer, ways: Mapping[str, Sampling]) -> tuple[WayFigures, ...]:
    """Return what every way of sampling costs and gives where the model restores the hidden pixels from one date."""

    def ready(name: str) -> None:
        # What is made once is no part of what a tile costs: changed and compiled networks, and walks that are recorded.
        tell(f"{name}: getting ready")
        _one_tile(case, enhancer, ways[name])

    return _judged(case, enhancer, {name: partial(_alone, case, enhancer, way) for name, way in ways.items()}, ready)


def _alone(case: Case, enhancer: Enhancer, sampling: Sampling) -> Made:
    hidden = is_obscured(case.stack.classes[case.target])
    found = restore(enhancer, case.stack.reflectance(case.target), hidden, sampling)
    return Made(found.image, found.tiles, found.redone)


def _one_tile(case: Case, enhancer: Enhancer, sampling: Sampling) -> None:
    needed = np.zeros(case.where.shape, bool)
    needed[0, 0] = True
    restore(enhancer, case.stack.reflectance(case.target), needed, sampling)


def _judged(
    case: Case,
    enhancer: Enhancer,
    ways: Mapping[str, Callable[[], Made]],
    ready: Callable[[str], None] = lambda _: None,
) -> tuple[WayFigures, ...]:
    """Return the figures of every way, each made ready first; the others are compared with the first."""
    device, made = next(enhancer.parameters()).device, dict[str, Made]()
    for number, (name, work) in enumerate(ways.items()):
        ready(name)
        tell(name, number, len(ways))
        made[name] = timed(work, device)
    where = case.where.copy()
    for each in made.values():
        where &= np.isfinite(each.image).all(axis=0)
    first = next(iter(made.values()))
    return tuple(_figures(name, each, first, case, where) for name, each in made.items())


def _figures(name: str, made: Made, first: Made, case: Case, where: BoolArray) -> WayFigures:
    bands = case.stack.bands
    faithful = score(made.image, first.image, where, bands, where)
    # Beside the clouds the target shows the truth itself.
    truth = score(made.image, case.truth, where, bands)
    return WayFigures(name, made.seconds, made.tiles, made.redone, faithful.psnr, faithful.ssim, truth.psnr, truth.ssim)
