"""Ablation `no-reference`: what the diffusion makes of a cloud when no reference steers it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.ablations.setting import Cell, Column, Findings, Setting, Table
from benchmarks.ablations.trained import pair_data, stage_of, train_on, untrained, without_allocation
from benchmarks.ablations.windows import FloatArray, Window, hold_out_windows, judge, restore_window
from benchmarks.chart import Panel, Series
from de_model import checkpoint
from de_model.enhancer import Enhancer
from de_model.inference.sampling import sampling_for
from de_model.metrics.bootstrap import Interval, mean_interval
from de_model.metrics.signatures import Comparison, signatures
from de_model.training.stages import Stage
from flows.errors import WorkFailed
from flows.progress import report_progress

#: Patches the diffusion is trained on; every step sees as many pixels as a batch of the preset.
_PATCHES = (16, 32, 64)
_COLUMNS = (
    Column("model"),
    Column("patch, px"),
    Column("PSNR, dB", interval=True),
    Column("residual cloud, reflectance", 4, interval=True, signed=True),
    Column("detail against truth", interval=True),
    Column("colour shift, sigma", interval=True),
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model, the tile it works in, and the least share of the reference."""

    name: str
    enhancer: Enhancer
    tile: int
    eta: float


@dataclass(frozen=True, slots=True)
class Faults:
    """What a candidate does to the hidden pixels, mean over blocks or windows."""

    psnr: Interval
    excess: Interval
    detail: Interval
    colour: Interval


def run(setting: Setting) -> Findings:
    """Train the noise predictor on patches of several sizes, and let it restore alone.

    Raises:
        InvalidSettings: there are not so many windows, or no pairs.
        InvalidCheckpoint: the weights cannot be used.
    """
    windows = hold_out_windows(setting)
    found = {(c.name, c.tile): _faults(c, windows, setting.seed) for c in _candidates(setting)}
    rows: list[tuple[Cell, ...]] = [
        (name, tile, f.psnr, f.excess, f.detail, f.colour) for (name, tile), f in found.items()
    ]
    names = tuple(f"{name}, {tile} px" for name, tile in found)
    panels = (
        Panel("", "PSNR on hidden pixels, dB", (Series("", names, tuple(f.psnr for f in found.values())),)),
        Panel("", "colour shift, sigma", (Series("", names, tuple(f.colour for f in found.values())),)),
    )
    pixels = _pixels(setting)
    method = (
        f"The noise predictor of preset {setting.preset} alone (W = 0), {setting.steps} steps of {pixels} pixels on "
        f"{', '.join(setting.train.cells)}, works in tiles of the size it was trained on; the reference network is "
        f"trained as long. The last rows are the weights {setting.weights.name}, with and without their reference. "
        f"{len(windows)} hold-out windows of {setting.side} px, one sample as suits each model. Detail is the mean "
        "squared Laplacian over that of the truth: 1 is right, less is blur. Residual cloud and colour shift (see "
        "`de_model/metrics/signatures.py`): 0 is right."
    )
    return Findings(Table(_COLUMNS, tuple(rows)), panels, method, _seen(found))


def _pixels(setting: Setting) -> int:
    stage = stage_of(setting, Stage.FINE)
    return stage.batch * stage.patch**2


def _candidates(setting: Setting) -> Iterator[Candidate]:
    data, gsd_m = pair_data(setting.train)
    for patch in _PATCHES:
        stage = stage_of(setting, Stage.FINE, patch=patch, batch=max(1, _pixels(setting) // patch**2))
        alone = untrained(setting, setting.train.bands, gsd_m)
        train_on(data, alone, [stage], setting, f"patches of {patch} px")
        yield Candidate("diffusion alone", without_allocation(alone), patch, 0.0)
    reference = untrained(setting, setting.train.bands, gsd_m)
    stage = stage_of(setting, Stage.REFERENCE)
    train_on(data, reference, [stage], setting, "reference")
    yield Candidate("reference alone", reference, stage.patch, 1.0)
    shipped = checkpoint.load(setting.weights)
    yield Candidate("weights, DE", shipped, setting.side, shipped.card.eta)
    yield Candidate("weights, reference alone", shipped, setting.side, 1.0)
    yield Candidate("weights, diffusion alone", without_allocation(checkpoint.load(setting.weights)), setting.side, 0.0)


def _faults(candidate: Candidate, windows: Sequence[Window], seed: int) -> Faults:
    overlap = candidate.tile // 4 if candidate.tile < min(windows[0].hidden.shape) else 0
    own = sampling_for(candidate.enhancer.card)
    steps = 1 if candidate.eta == 1 else own.steps
    sampling = replace(own, seed=seed, samples=1, steps=steps, eta=candidate.eta, tile=candidate.tile, overlap=overlap)
    psnr, comparisons = [], []
    for number, window in enumerate(windows):
        report_progress(f"{candidate.name}, {candidate.tile} px", number, len(windows))
        found = restore_window(window, candidate.enhancer, sampling)
        psnr += [block.psnr for block in judge(window, found.image, found.reference)]
        comparisons.append(_compare(window, found.image))
    return Faults(
        mean_interval(psnr),
        mean_interval([c.excess for c in comparisons]),
        mean_interval([c.detail_ratio for c in comparisons]),
        mean_interval([c.colour_shift for c in comparisons]),
    )


def _compare(window: Window, image: FloatArray) -> Comparison:
    """Return the failure signatures of a window against its truth."""
    product = np.where(window.hidden, image, window.cloudy)
    truth = np.where(window.seen, window.truth, np.float32(np.nan))
    found = signatures(product, window.hidden, window.bands, truth).truth
    if found is None:
        raise WorkFailed(f"{window.name} has no truth under its clouds; choose other windows.")
    return found


def _seen(found: dict[tuple[str, int], Faults]) -> str:
    alone = {tile: f for (name, tile), f in found.items() if name == "diffusion alone"}
    best = max(alone, key=lambda tile: alone[tile].psnr.mean)
    references = [f for (name, _), f in found.items() if name == "reference alone"]
    shipped = {name: f for (name, _), f in found.items() if name.startswith("weights")}
    on_its_own, steered = shipped["weights, diffusion alone"], shipped["weights, DE"]
    return (
        f"Trained here, the diffusion alone is best with patches of {best} px: {alone[best].psnr.mean:.2f} dB against "
        f"{references[0].psnr.mean:.2f} dB of a reference trained as long. With the weights given it reaches "
        f"{on_its_own.psnr.mean:.2f} dB alone and {steered.psnr.mean:.2f} dB with its reference; its colours are off "
        f"by {on_its_own.colour.mean:.1f} sigma against {steered.colour.mean:.1f}, its detail is "
        f"{on_its_own.detail.mean:.2f} of the truth's against {steered.detail.mean:.2f}."
    )
