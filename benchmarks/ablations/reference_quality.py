"""Ablation `reference-quality`: does the weight network notice how good the reference is?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from benchmarks.ablations.setting import Cell, Column, Findings, Setting, Table
from benchmarks.ablations.windows import (
    FloatArray,
    References,
    Trial,
    Window,
    hold_out_windows,
    in_steps,
    own_reference,
    restore_window,
    sampling_of,
    try_on,
)
from benchmarks.chart import Panel, Series
from de_model import checkpoint
from de_model.enhancer import Enhancer

#: The oracle is a copy of the truth up to rounding, at 150 dB and more.
_SHOWN_DB = (10.0, 50.0)
_OWN = "the model's own"


@dataclass(frozen=True, slots=True)
class Degradation:
    """What makes a reference worse, companded units and pixels."""

    #: Share of the cloudy image mixed in: clouds that the reference failed to remove.
    cloudy_share: float = 0.0
    #: Standard deviation of a Gaussian blur: detail that it lost.
    blur: float = 0.0
    #: Added everywhere: another season's or sun's brightness.
    bias: float = 0.0
    #: Standard deviation of Gaussian noise.
    noise: float = 0.0


_DEGRADATIONS = {
    "residual cloud, 25 %": Degradation(cloudy_share=0.25),
    "blur, 1 px": Degradation(blur=1),
    "blur, 3 px": Degradation(blur=3),
    "bias, -0.05": Degradation(bias=-0.05),
    "bias, +0.05": Degradation(bias=0.05),
    "bias, +0.15": Degradation(bias=0.15),
    "noise, 0.02": Degradation(noise=0.02),
    "noise, 0.1": Degradation(noise=0.1),
}
_COLUMNS = (
    Column("reference"),
    Column("mean W", 3),
    Column("reference PSNR, dB", interval=True),
    Column("output PSNR, dB", interval=True),
    Column("output above reference, dB", 3, interval=True, signed=True),
    Column("reference spectrum error, dB"),
    Column("output spectrum error, dB"),
)


def run(setting: Setting) -> Findings:
    """Restore hold-out windows with references of many qualities.

    Raises:
        InvalidSettings: there are not so many windows.
        InvalidCheckpoint: the weights cannot be used.
    """
    windows = hold_out_windows(setting)
    enhancer = checkpoint.load(setting.weights)
    sampling = sampling_of(setting, enhancer)
    trials = {
        name: try_on(windows, enhancer, sampling, references, name)
        for name, references in _references(setting, enhancer, windows)
    }
    rows: list[tuple[Cell, ...]] = [
        (n, t.weight, t.reference_psnr, t.psnr, t.gain, t.reference_spectrum.mean, t.spectrum.mean)
        for n, t in trials.items()
    ]
    names = tuple(trials)
    panels = (
        Panel(
            "",
            "PSNR on hidden pixels, dB",
            (
                Series("reference", names, tuple(t.reference_psnr for t in trials.values())),
                Series("output", names, tuple(t.psnr for t in trials.values())),
            ),
            y_range=_SHOWN_DB,
        ),
        Panel("", "mean W", (Series("W", names, tuple(t.weight for t in trials.values())),), level=enhancer.card.eta),
    )
    method = (
        f"{len(windows)} hold-out windows of {setting.side} px, {in_steps(enhancer)}. The model's own reference is "
        "degraded in companded units; `untrained network` is a reference as training begins; `composite` is the fused "
        "composite of the remaining dates, the model's own where none saw the ground; `oracle` is the truth, beyond "
        "the picture. The dashed line is eta, the floor of W."
    )
    return Findings(Table(_COLUMNS, tuple(rows)), panels, method, _seen(trials))


def _references(setting: Setting, enhancer: Enhancer, windows: Sequence[Window]) -> Iterator[tuple[str, References]]:
    once = replace(sampling_of(setting, enhancer, 1.0), steps=1)
    own = {window.name: restore_window(window, enhancer, once).reference for window in windows}
    yield "oracle", lambda window: np.where(window.seen, window.truth, np.float32(np.nan))
    yield "composite", lambda window: window.composite
    yield _OWN, own_reference
    for name, degradation in _DEGRADATIONS.items():
        yield name, partial(_degraded, own, degradation, setting.seed)
    torch.manual_seed(setting.seed)
    untrained = Enhancer(enhancer.card).channels_last()
    yield "untrained network", lambda window: restore_window(window, untrained, once).reference


def _degraded(own: dict[str, FloatArray], degradation: Degradation, seed: int, window: Window) -> FloatArray:
    """Return the model's own reference of a window made worse, reflectance `(band, y, x)`."""
    # Outside the restored tiles there is no reference; none is used there.
    reference, cloudy = (np.sqrt(np.clip(np.nan_to_num(image), 0, 1)) for image in (own[window.name], window.cloudy))
    worse = reference + degradation.cloudy_share * (cloudy - reference)
    if degradation.blur:
        worse = gaussian_filter(worse, (0, degradation.blur, degradation.blur), mode="nearest", truncate=3)
    drawn = torch.randn(worse.shape, generator=torch.Generator().manual_seed(seed)).numpy()
    return np.square(np.clip(worse + degradation.bias + degradation.noise * drawn, 0, 1)).astype(np.float32)


def _rank(trials: dict[str, Trial]) -> str:
    """Return the rank correlation of W with quality in words; untrained weights give the same W everywhere."""
    weights = [t.weight for t in trials.values()]
    if len(set(weights)) == 1:
        return "not defined"
    return f"{spearmanr([t.reference_psnr.mean for t in trials.values()], weights).statistic:+.2f}"


def _seen(trials: dict[str, Trial]) -> str:
    helped = [name for name, t in trials.items() if t.gain.low > 0]
    hurt = [name for name, t in trials.items() if t.gain.high < 0]
    most, least = (choose(trials, key=lambda name: trials[name].weight) for choose in (max, min))
    return (
        f"W is largest for `{most}` ({trials[most].weight:.3f}) and smallest for `{least}` "
        f"({trials[least].weight:.3f}); its rank correlation with the reference's PSNR is {_rank(trials)} (+1 "
        f"would be a W that follows quality). The output is "
        f"better than the reference, interval above zero, for: {'; '.join(helped) or 'none'}. It is worse for: "
        f"{'; '.join(hurt) or 'none'}."
    )
