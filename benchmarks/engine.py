"""The engine on real clouds of the sample: speed against quality, tiles, time against the share of clouds, limits.

On the GPU where there is one, else some minutes on one thread of a CPU. Settings in the environment are the default
that is measured, e.g. UNVEIL_PRECISION=bf16. With --side scenes that are cloudy everywhere are restored as well.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.chart import Panel, Series, draw
from benchmarks.measuring import clock, copy_bandwidth, disk_rates, flops_of, matmul_peak, one_thread
from benchmarks.model import PLAIN
from benchmarks.report import Page, parser, publish, table
from de_model import checkpoint
from de_model.enhancer import Enhancer
from de_model.inference.acceleration import Acceleration, Precision
from de_model.inference.engine import restore
from de_model.inference.frame import Frame
from de_model.inference.sampling import Sampling
from de_model.inference.tiles import Tile, plan_tiles, starts
from de_model.inference.whole import restore_image
from de_model.metrics.standard import score
from de_model.sampling.kinds import SamplerKind
from flows.cli.console import progress_bar
from flows.models.evaluation_cases import Case, index_on, transplanted_cases
from flows.planning.search import SceneSet, fullest_window, stacks_of
from flows.processing.restore import composite_of, prepare, restore_date
from flows.progress import report_progress
from flows.settings.fields import RestorationOptions
from flows.settings.loading import load_settings
from stac.composite.methods import CompositeMethod
from stac.masks.classes import is_hidden
from stac.product.assembly import ModelResult, assemble, unseen
from stac.product.layers import ProductLayers
from stac.product.writer import write_product
from stac.reflectance import to_reflectance

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: The shipped weights have never seen this square; three days lie between its clouds and its truth.
_CELL, _CLOUDS, _TRUTH = "MGRS-33TWL", date(2023, 8, 18), date(2023, 8, 15)
#: Measurements of one thing, and the seconds after which no further one is made: a machine that others share varies by
#: a tenth from one minute to the next.
_ROUNDS, _ENOUGH_S = 3, 25.0
#: The paper's way: `Sampling()` as it is, networks as they are written; and the two ways the others lie between.
FAITHFUL = Sampling(acceleration=PLAIN)
PAPERS, DEFAULTS = "the paper's: DDIM-10, plain layout", "default"
#: Shares of the tiles that are needed, and sides and overlaps of tiles.
_FRACTIONS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
TILINGS = ((64, 4), (64, 8), (128, 8), (128, 32), (256, 16))
#: Side of a Sentinel-2 tile at 10 m, pixels.
_WHOLE = 10980
_FASTER, _ALIKE_DB, _WORSE_DB = 15.0, 40.0, 0.05
_REDUNDANCY, _SEAM, _UNTILED_DB, _PROPORTION = 1.30, 1.05, 45.0, 0.10

_EXPLANATION = """\
Real clouds of the sample (18 August 2023) are laid on a clear date (15 August), whose own pixels under them are the
truth; the shipped small model has never seen this square (33TWL). PSNR is for a peak reflectance of 1 and, like SSIM,
taken on the hidden pixels whose truth is known. On a CPU everything runs in one thread and seconds are that thread's
processor time, so other work on the machine counts little; on a GPU they are the wall's. They are the median of three
rounds, of two where these take 25 s together, of one that takes as long alone."""
_ABOUT_TILES = """\
Redundancy is pixels run for one pixel needed: *whole* of 10980 px, *here* of this scene, whose last tiles are pushed
back to the edge, *hidden* of the real clouds alone."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sides of the scenes, pixels, multiples of the model's stride."""

    #: For the options of the model alone.
    options: int = 128
    #: For shares of tiles and for tilings.
    tiles: int = 384
    #: For whole products; the whole scene when None.
    product: int | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """A restored scene, reflectance `(band, y, x)`, and what it took."""

    image: FloatArray
    tiles: int
    redone: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class WayFigures:
    """A scene restored in one way. PSNR in dB for a peak of 1, SSIM -1..1, both on the hidden pixels."""

    name: str
    seconds: float
    tiles: int
    #: Tiles run again in float32.
    redone: int
    #: Against the first way of the table; infinite and 1 for itself.
    psnr_faithful: float
    ssim_faithful: float
    #: Against what the clear date saw.
    psnr_truth: float
    ssim_truth: float


@dataclass(frozen=True, slots=True)
class TilingFigures:
    """A scene restored everywhere with one size of tiles and overlap."""

    tile: int
    overlap: int
    #: Pixels run for one needed: a whole Sentinel-2 tile, the scene at hand, and its hidden pixels.
    redundancy_whole: float
    redundancy: float
    redundancy_hidden: float
    seconds: float
    #: Step across tile borders over other steps, here and at the same lines of the untiled result.
    seam: float
    seam_untiled: float
    #: Against one tile as large as the scene, everywhere, dB; then against the truth on the hidden pixels.
    psnr_untiled: float
    psnr_truth: float


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """Everything, measured in one run."""

    device: str
    #: Of the scene that products are made of: shares of its pixels that are hidden, and that no date saw.
    hidden: float
    unseen: float
    #: Whole products: the paper's settings on every tile, then the product's.
    products: tuple[WayFigures, ...]
    #: The model alone, one option changed at a time, then together; the first is the paper's way.
    options: tuple[WayFigures, ...]
    #: Share of tiles needed, tiles, seconds.
    proportions: tuple[tuple[float, int, float], ...]
    tilings: tuple[TilingFigures, ...]
    #: Side and overlap of the default's tiles: for gaps that other dates leave, and for whole scenes.
    defaults: tuple[tuple[int, int], tuple[int, int]]
    #: PSNR of the scene in one tile against the truth, dB.
    psnr_untiled: float
    #: Matrix products, operations per second; copies in memory, disk writes and reads, bytes per second.
    limits: tuple[float, float, float, float]
    #: A scene that is needed everywhere: share of the rate of matrix products, and needed over run pixels.
    share_of_peak: float
    useful: float

    @property
    def excess(self) -> float:
        """Largest share of the full time beyond the share of the tiles."""
        full = self.proportions[-1][2]
        return max(seconds / full - fraction for fraction, _, seconds in self.proportions)


def engine_case() -> Case:
    """Return the case with all other dates as source, on the whole square."""
    (stack,) = stacks_of(SceneSet((_CELL,)))
    return next(transplanted_cases(stack, [index_on(stack, _CLOUDS)], [index_on(stack, _TRUTH)]))


def part_of(case: Case, side: int) -> Case:
    """Return the window of `side` pixels in which most is hidden."""
    at = fullest_window(case.where, side)
    return replace(case, stack=case.stack.window(*at), truth=case.truth[:, *at], where=case.where[at])


def measure(
    options: RestorationOptions,
    single: Sampling,
    sizes: Sizes | None = None,
    ways: Mapping[str, Sampling] | None = None,
) -> EngineFigures:
    """Measure the shipped model on the GPU where there is one, else on one thread of the CPU.

    Args:
        options: how the product is made by default.
        single: how the model restores whole clouds by default, without other dates.
        sizes: of the scenes; smaller ones to try it.
        ways: of the model alone, by name; every option when left out.
    """
    sizes = sizes or Sizes()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    enhancer, case = checkpoint.load(checkpoint.shipped_weights(), device.type), engine_case()
    scene, gaps = part_of(case, sizes.tiles), replace(options.sampling, samples=1)
    whole = case if sizes.product is None else part_of(case, sizes.product)
    defaults = ((gaps.tile, gaps.overlap), (single.tile, single.overlap))
    dtype = torch.bfloat16 if single.acceleration.precision is Precision.BF16 else torch.float32
    with one_thread():
        report_progress("limits of the machine")
        limits = (matmul_peak(device, dtype), copy_bandwidth(device), *disk_rates())
        sides = [each for each in dict.fromkeys([*TILINGS, *defaults]) if each[0] < sizes.tiles]
        tiled, untiled = tilings(scene, enhancer, replace(single, samples=1), sides)
        share, useful = _utilisation(scene, enhancer, gaps, limits[0])
        return EngineFigures(
            device=torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
            hidden=float(is_hidden(whole.stack.classes[whole.target]).mean()),
            unseen=_unseen_share(whole, options),
            products=products(whole, enhancer, options, single),
            options=options_tried(part_of(case, sizes.options), enhancer, ways or options_of(single)),
            proportions=proportions(scene, enhancer, gaps),
            tilings=tiled,
            defaults=defaults,
            psnr_untiled=untiled,
            limits=limits,
            share_of_peak=share,
            useful=useful,
        )


def timed(work: Callable[[], Made], device: torch.device) -> Made:
    """Do the work up to three times, fewer where it takes long, and return its result with the median of the times."""
    times: list[float] = []
    while len(times) < _ROUNDS and sum(times) < _ENOUGH_S:
        began = clock(device)
        made = work()
        times.append(clock(device) - began)
    return replace(made, seconds=median(times))


def products(case: Case, enhancer: Enhancer, options: RestorationOptions, single: Sampling) -> tuple[WayFigures, ...]:
    """Return whole products, from pixels in memory to written files: the paper's way first, the default last."""
    alone = replace(options, composite=CompositeMethod.NONE, sampling=single)
    usual = replace(options.sampling, sampler=single.sampler, steps=single.steps, start=single.start)
    pyramid = replace(usual, sampler=SamplerKind.PYRAMID, steps=2)
    ways: dict[str, Callable[[], Made]] = {
        "the paper's settings, every tile": partial(_faithful_product, case, enhancer),
        "default without other dates": partial(_product, case, enhancer, alone),
        "the schedule of whole clouds": partial(_product, case, enhancer, replace(options, sampling=usual)),
        "pyramid, 2 steps": partial(_product, case, enhancer, replace(options, sampling=pyramid)),
        "default": partial(_product, case, enhancer, options),
    }
    return _judged(case, enhancer, ways)


def _unseen_share(case: Case, options: RestorationOptions) -> float:
    """Return the share of a scene's pixels that no date saw."""
    prepared = prepare(case.stack, case.target, case.stack.cell, options)
    return float(unseen(case.stack, case.target, composite_of(case.stack, prepared)).mean())


def _faithful_product(case: Case, enhancer: Enhancer) -> Made:
    found = restore(enhancer, case.stack.reflectance(case.target), np.ones(case.where.shape, bool), FAITHFUL)
    model = ModelResult(found.image, found.reference_weight, found.spread)
    return _written(case, assemble(case.stack, case.target, None, model), found.tiles)


def _product(case: Case, enhancer: Enhancer, options: RestorationOptions) -> Made:
    restored = restore_date(case.stack, case.target, enhancer, options)
    return _written(case, restored.layers, restored.tiles)


def _written(case: Case, layers: ProductLayers, tiles: int) -> Made:
    with tempfile.TemporaryDirectory(prefix="unveil-bench-") as folder:
        write_product([layers], layers.geobox, layers.bands, case.stack.dn[case.target], Path(folder))
    return Made(to_reflectance(layers.data), tiles)


def options_of(single: Sampling) -> dict[str, Sampling]:
    """Return the options by name: the paper's way, the default, the default with one thing changed, and all gains."""
    base = replace(single, samples=FAITHFUL.samples)

    def faster(**values: Any) -> Sampling:
        return replace(base, acceleration=replace(base.acceleration, **values))

    return {
        PAPERS: FAITHFUL,
        "DDIM-10, channels last": replace(FAITHFUL, acceleration=Acceleration()),
        DEFAULTS: base,
        "plain layout": replace(base, acceleration=PLAIN),
        "compiled": faster(compiled=True),
        "pyramid, 4 steps": replace(base, sampler=SamplerKind.PYRAMID, steps=4),
        "2 steps": replace(base, steps=2),
        "start at the reference, t = 400, 2 steps": replace(base, steps=2, start=400),
        "start at the reference, t = 200, 1 step (default for gaps)": replace(base, steps=1, start=200),
        "1 sample": replace(base, samples=1),
        "1 sample, bfloat16": replace(faster(precision=Precision.BF16), samples=1),
        "1 sample, compiled, bfloat16": replace(faster(compiled=True, precision=Precision.BF16), samples=1),
    }


def options_tried(case: Case, enhancer: Enhancer, ways: Mapping[str, Sampling]) -> tuple[WayFigures, ...]:
    """Return what every way of sampling costs and gives where the model restores the hidden pixels from one date."""
    image, one = case.stack.reflectance(case.target), np.zeros(case.where.shape, bool)
    one[0, 0] = True

    def ready(name: str) -> None:
        report_progress(f"{name}: compiling")  # what is made once is not part of what a tile costs
        restore(enhancer, image, one, ways[name])

    hidden = is_hidden(case.stack.classes[case.target])
    works = {name: partial(_restored_once, enhancer, image, hidden, way) for name, way in ways.items()}
    return _judged(case, enhancer, works, ready)


def _restored_once(enhancer: Enhancer, image: FloatArray, needed: BoolArray, sampling: Sampling) -> Made:
    found = restore(enhancer, image, needed, sampling)
    return Made(found.image, found.tiles, found.redone)


def _restored(enhancer: Enhancer, image: FloatArray, needed: BoolArray, sampling: Sampling) -> Made:
    device = next(enhancer.parameters()).device
    return timed(partial(_restored_once, enhancer, image, needed, sampling), device)


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
        report_progress(name, number, len(ways))
        made[name] = timed(work, device)
    where = case.where.copy()
    for each in made.values():
        where &= np.isfinite(each.image).all(axis=0)
    first, bands = next(iter(made.values())), case.stack.bands
    found = []
    for name, each in made.items():
        faithful = score(each.image, first.image, where, bands, where)
        truth = score(each.image, case.truth, where, bands)  # beside the clouds the target shows the truth itself
        scores = (faithful.psnr, faithful.ssim, truth.psnr, truth.ssim)
        found.append(WayFigures(name, each.seconds, each.tiles, each.redone, *scores))
    return tuple(found)


def proportions(case: Case, enhancer: Enhancer, sampling: Sampling) -> tuple[tuple[float, int, float], ...]:
    """Return the time of a scene of which more and more tiles are needed, chosen by chance, one pixel in each."""
    scene, shape = case.stack.reflectance(case.target), case.where.shape
    every = tiles_of(np.ones(shape, bool), sampling)
    order = np.random.default_rng(0).permutation(len(every))
    found = []
    for number, fraction in enumerate(_FRACTIONS):
        report_progress("shares of the tiles", number, len(_FRACTIONS))
        needed = np.zeros(shape, bool)
        for index in order[: round(fraction * len(every))]:
            tile = every[index]  # the middle of a tile belongs to it alone
            needed[tile.row + tile.size // 2, tile.column + tile.size // 2] = True
        made = _restored(enhancer, scene, needed, sampling)
        found.append((made.tiles / len(every), made.tiles, made.seconds))
    return tuple(found)


def tilings(
    case: Case, enhancer: Enhancer, sampling: Sampling, sizes: Sequence[tuple[int, int]]
) -> tuple[tuple[TilingFigures, ...], float]:
    """Return the figures of every (side, overlap) of tiles, and the PSNR of one tile against the truth, dB."""
    scene, everything = case.stack.reflectance(case.target), np.ones(case.where.shape, bool)
    hidden = is_hidden(case.stack.classes[case.target])
    report_progress("one tile for all")
    untiled = _restored(enhancer, scene, everything, replace(sampling, tile=len(everything), overlap=0)).image
    found = []
    for number, (tile, overlap) in enumerate(sizes):
        report_progress(f"tiles of {tile} px that share {overlap}", number, len(sizes))
        tiled = replace(sampling, tile=tile, overlap=overlap)
        made = _restored(enhancer, scene, everything, tiled)
        found.append(
            TilingFigures(
                tile,
                overlap,
                whole_redundancy(_WHOLE, tiled),
                redundancy(everything, tiled),
                redundancy(hidden, tiled),
                made.seconds,
                seam_ratio(made.image, tiled),
                seam_ratio(untiled, tiled),
                psnr(made.image, untiled, everything),
                psnr(made.image, case.truth, case.where),
            )
        )
    return tuple(found), psnr(untiled, case.truth, case.where)


def _utilisation(case: Case, enhancer: Enhancer, sampling: Sampling, peak: float) -> tuple[float, float]:
    """Return the share of the machine's peak, and needed over run pixels, of a scene that is needed everywhere."""
    report_progress("utilisation of the machine")
    scene, everything = case.stack.reflectance(case.target), np.ones(case.where.shape, bool)
    one = np.zeros_like(everything)
    one[0, 0] = True
    flops = flops_of(lambda: restore(enhancer, scene, one, sampling))
    made = _restored(enhancer, scene, everything, sampling)
    return made.tiles * flops / made.seconds / peak, 1 / redundancy(everything, sampling)


def tiles_of(needed: BoolArray, sampling: Sampling) -> list[Tile]:
    """Return the tiles that the engine runs for the pixels `needed` `(y, x)` of a scene."""
    frame = Frame.around(needed.shape, (0, 0), sampling.tile, sampling.grid)
    return plan_tiles(frame.surround(needed), sampling.tile, sampling.overlap)


def redundancy(needed: BoolArray, sampling: Sampling) -> float:
    """Return pixels run over pixels needed: overlap, padding, and what tiles hold besides. At least one is needed."""
    return len(tiles_of(needed, sampling)) * sampling.tile**2 / int(needed.sum())


def whole_redundancy(side: int, sampling: Sampling) -> float:
    """Return the redundancy of a square scene of `side` pixels that is needed everywhere."""
    rows = len(starts(max(side, sampling.tile), sampling.tile, sampling.overlap))
    return (rows * sampling.tile / side) ** 2


def seam_ratio(image: FloatArray, sampling: Sampling) -> float:
    """Return the mean step between pixels across tile borders over that between all others; 1 shows no seam.

    A border is where a tile begins or ends, so every overlap counts with both its edges.

    Args:
        image: `(band, y, x)`, finite, at least two tiles high or wide.
        sampling: how it was tiled.
    """
    on, off = [], []
    for axis in (1, 2):
        steps = np.abs(np.diff(image, axis=axis)).mean(axis=(0, 3 - axis))
        border = np.zeros(len(steps), bool)
        for first in starts(image.shape[axis], sampling.tile, sampling.overlap):
            edges = (first - 1, first + sampling.tile - 1)
            border[[edge for edge in edges if 0 <= edge < len(steps)]] = True
        on.append(steps[border])
        off.append(steps[~border])
    return float(np.concatenate(on).mean() / np.concatenate(off).mean())


def psnr(image: FloatArray, other: FloatArray, where: BoolArray) -> float:
    """Return the PSNR between images `(band, y, x)` on the pixels `where` `(y, x)` for a peak of 1, dB."""
    mse = float(np.square(image[:, where].astype(np.float64) - other[:, where]).mean())
    return math.inf if mse == 0 else -10 * math.log10(mse)


@dataclass(frozen=True, slots=True)
class CanvasTime:
    """A scene that is cloudy everywhere, restored by the model alone in one sample."""

    side: int
    #: From pixels in memory to pixels in memory, compilation left out.
    seconds: float
    tiles: int
    #: Most memory that tensors held on the GPU, bytes; None on a CPU.
    gpu_bytes: int | None


def canvases(single: Sampling, sides: Sequence[int]) -> tuple[CanvasTime, ...]:
    """Restore scenes of several sizes, hidden everywhere; the sample's cloudy date is mirrored on and on."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    enhancer, sampling = checkpoint.load(checkpoint.shipped_weights(), device.type), replace(single, samples=1)
    case, found = engine_case(), []
    for number, side in enumerate([2 * sampling.tile, *sides]):  # the first one warms up
        report_progress(f"{side} x {side} px")
        image = np.nan_to_num(case.stack.reflectance(case.target)[:, :side, :side])
        scene = np.pad(image, [(0, 0), *((0, side - have) for have in image.shape[1:])], mode="symmetric")
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        began = clock(device)
        made = restore_image(enhancer, scene, np.ones((side, side), bool), sampling)
        seconds = clock(device) - began
        held = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        found += [CanvasTime(side, seconds, made.tiles, held)][: number > 0]
    return tuple(found)


def page_of(found: EngineFigures, scenes: Sequence[CanvasTime] = ()) -> Page:
    """Return the results page and its plot."""
    parts = [
        _EXPLANATION,
        "## Goals",
        _goals(found),
        "![Time against the share of tiles, and quality against time](engine.png)",
        "## Whole products",
        (
            "A scene, from pixels in memory to written files: composite, tiles, blending, layers, COGs. "
            f"{found.hidden:.0%} of its pixels are hidden; {found.unseen:.2%} no date saw, which is the model's share."
        ),
        _ways(found.products),
        "## The model alone, one option after the other",
        "The hidden pixels from their own date, two samples where nothing else is said; compiled before the clock ran.",
        _ways(found.options),
        "## Time against the share of tiles that are needed",
        _shares(found),
        "## Tiles",
        f"A scene that is needed everywhere, one sample; untiled it is one tile. {_ABOUT_TILES}",
        _tilings(found),
        "## Against the machine's limits",
        _limits(found),
    ]
    if scenes:
        parts += ["## Scenes that are cloudy everywhere", _canvases(scenes)]
    record = asdict(found) | {"canvases": [asdict(each) for each in scenes]}
    return Page("The engine, measured", tuple(parts), record, _plot(found))


def _goals(found: EngineFigures) -> str:
    paper, *_, default = found.products
    faster, gain = paper.seconds / default.seconds, default.psnr_truth - paper.psnr_truth
    by_size = {(each.tile, each.overlap): each for each in found.tilings}
    used = [by_size[size] for size in found.defaults]
    rows = [
        (
            "default product against the paper's settings on every tile",
            f"{faster:.1f} times faster, {default.psnr_faithful:.1f} dB between them, {gain:+.2f} dB against the truth",
            f">= {_FASTER:g} times and >= {_ALIKE_DB:g} dB, or no worse than {_WORSE_DB} dB against the truth",
            faster >= _FASTER and (default.psnr_faithful >= _ALIKE_DB or gain >= -_WORSE_DB),
        ),
        (
            "time above the share of tiles, at most",
            f"{found.excess:+.3f} of the full time",
            f"<= {_PROPORTION:+.2f}",
            found.excess <= _PROPORTION,
        ),
        (
            "redundancy of overlap and padding, 10980 px, default tiles",
            " and ".join(f"{each.redundancy_whole:.2f}" for each in used),
            f"<= {_REDUNDANCY:.2f}",
            max(each.redundancy_whole for each in used) <= _REDUNDANCY,
        ),
        (
            "seams: step across tile borders over other steps, default tiles",
            " and ".join(f"{each.seam:.3f}" for each in used),
            f"<= {_SEAM}",
            max(each.seam for each in used) <= _SEAM,
        ),
        (
            "tiled against untiled, default tiles",
            " and ".join(f"{each.psnr_untiled:.1f}" for each in used) + " dB",
            f">= {_UNTILED_DB:g} dB",
            min(each.psnr_untiled for each in used) >= _UNTILED_DB,
        ),
    ]
    lines = [(what, value, wanted, "reached" if ok else "**missed**") for what, value, wanted, ok in rows]
    return table(("", "measured", "goal", ""), lines)


def _ways(ways: Sequence[WayFigures]) -> str:
    rows = [
        (
            way.name,
            f"{way.seconds:.1f}",
            f"{ways[0].seconds / way.seconds:.2f}",
            way.tiles,
            f"{way.psnr_faithful:.1f}" if math.isfinite(way.psnr_faithful) else "–",
            f"{way.ssim_faithful:.4f}",
            f"{way.psnr_truth:.2f}",
            f"{way.ssim_truth:.4f}",
            way.redone or "–",
        )
        for way in ways
    ]
    head = (
        "", "seconds", "times faster", "tiles", "PSNR to the first, dB", "SSIM to it", "PSNR to the truth, dB",
        "SSIM to it", "redone in float32",
    )  # fmt: skip
    return table(head, rows)


def _shares(found: EngineFigures) -> str:
    full = found.proportions[-1][2]
    rows = [(f"{share:.2f}", tiles, f"{s:.2f}", f"{s / full:.3f}") for share, tiles, s in found.proportions]
    return table(("share of tiles", "tiles", "seconds", "share of the full time"), rows)


def _tilings(found: EngineFigures) -> str:
    names = dict(zip(found.defaults, (" (default for gaps)", " (default for scenes)"), strict=True))
    rows = [
        (
            f"{t.tile} px, {t.overlap} shared{names.get((t.tile, t.overlap), '')}",
            f"{t.redundancy_whole:.2f}",
            f"{t.redundancy:.2f}",
            f"{t.redundancy_hidden:.2f}",
            f"{t.seconds:.1f}",
            f"{t.seam:.3f}",
            f"{t.seam_untiled:.3f}",
            f"{t.psnr_untiled:.1f}",
            f"{t.psnr_truth:.3f}",
        )
        for t in found.tilings
    ]
    head = (
        "tiles", "redundancy, whole", "here", "hidden", "seconds", "seam ratio", "at the same lines, untiled",
        "PSNR to untiled, dB", "PSNR to the truth, dB",
    )  # fmt: skip
    return table(head, [*rows, ("one tile", *"–" * 7, f"{found.psnr_untiled:.3f}")])


def _limits(found: EngineFigures) -> str:
    matmul, copy, write, read = found.limits
    return (
        f"{found.device}: matrix products at {matmul / 1e9:,.0f} Gflop/s, copies at {copy / 2**30:.1f} GiB/s (read and "
        f"written), the disk writes {write / 2**20:,.0f} MiB/s and reads {read / 2**20:,.0f} MiB/s. A scene that is "
        f"needed everywhere reaches {found.share_of_peak:.0%} of the rate of matrix products; {found.useful:.0%} of "
        f"the pixels run are needed, so {found.share_of_peak * found.useful:.0%} of what the machine could do goes "
        "into the result."
    )


def _canvases(scenes: Sequence[CanvasTime]) -> str:
    rows = [
        (
            f"{t.side} x {t.side}",
            f"{t.seconds:.1f}",
            f"{t.side**2 / 1e6 / t.seconds:.2f}",
            t.tiles,
            "-" if t.gpu_bytes is None else f"{t.gpu_bytes / 2**30:.1f}",
        )
        for t in scenes
    ]
    return table(("pixels", "seconds", "megapixels/s", "tiles", "GPU memory, GiB"), rows)


def _plot(found: EngineFigures) -> bytes:
    full, shares = found.proportions[-1][2], tuple(share for share, *_ in found.proportions)
    time = Series("measured", shares, tuple(seconds / full for *_, seconds in found.proportions))
    limit = Series("goal", shares, tuple(share + _PROPORTION for share in shares))
    shown = (PAPERS, DEFAULTS, "compiled", "pyramid, 4 steps", "2 steps", "1 sample")
    options = tuple(Series(w.name, (w.seconds,), (w.psnr_truth,)) for w in found.options if w.name in shown)
    panels = (
        Panel("share of tiles that are needed", "share of the full time", (time, limit)),
        Panel("seconds", "PSNR to the truth, dB", options),
    )
    return draw(panels)


if __name__ == "__main__":
    command = parser("engine", __doc__)
    command.add_argument("--side", type=int, action="append", default=[], help="of a scene cloudy everywhere, pixels")
    chosen = command.parse_args()
    alone = load_settings(None, {"composite": "none"}).restoration.sampling
    with progress_bar():
        figures = measure(load_settings().restoration, alone)
        page = page_of(figures, canvases(alone, chosen.side))
    publish("engine", page, chosen)
