"""Ablation `eta-sweep`: how much of the reference must be kept, by what hides the ground."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from benchmarks.ablations.setting import Cell, Column, Findings, Setting, Table, in_words
from benchmarks.ablations.windows import Trial, Window, hold_out_windows, in_steps, judge, restore_window, sampling_of
from benchmarks.chart import Panel, Series
from de_model import checkpoint
from de_model.enhancer import Enhancer
from flows.progress import report_progress
from stac.masks.classes import PixelClass

ETAS = (0.0, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)
_KINDS = {"thin cloud": PixelClass.THIN_CLOUD, "thick cloud": PixelClass.CLOUD, "shadow": PixelClass.SHADOW}
_COLUMNS = (
    Column("hidden by"),
    Column("eta"),
    Column("PSNR, dB", interval=True),
    Column("above the reference, dB", 3, interval=True, signed=True),
    Column("spectrum error, dB", interval=True),
    Column("mean W"),
    Column("blocks"),
)
_Sweep = dict[tuple[str, float], Trial]


def run(setting: Setting) -> Findings:
    """Restore hold-out windows at several eta and judge thin cloud, thick cloud and shadow apart.

    Raises:
        InvalidSettings: there are not so many windows.
        InvalidCheckpoint: the weights cannot be used.
    """
    windows = hold_out_windows(setting)
    enhancer = checkpoint.load(setting.weights)
    sweep: _Sweep = {}
    for number, eta in enumerate(ETAS):
        report_progress("eta", number, len(ETAS))
        sweep |= _at(eta, setting, windows, enhancer)
    sweep = {(kind, eta): sweep[kind, eta] for kind in _KINDS for eta in ETAS}
    rows: list[tuple[Cell, ...]] = [
        (kind, eta, t.psnr, t.gain, t.spectrum, t.weight, len(t.blocks)) for (kind, eta), t in sweep.items()
    ]
    panels = (
        Panel("eta", "PSNR above the reference, dB", _series(sweep, "gain"), level=0),
        Panel("eta", "PSNR on hidden pixels, dB", _series(sweep, "psnr")),
    )
    method = (
        f"{len(windows)} hold-out windows of {setting.side} px, {in_steps(enhancer)}. The mask of the cloudy date "
        "says what hides a pixel; thick cloud includes the rim by which clouds are grown. A block of 64 px counts "
        "for a kind where it holds 400 pixels of it; intervals are 95 % paired bootstraps over blocks. With eta = 1 "
        "the result is the reference."
    )
    return Findings(Table(_COLUMNS, tuple(rows)), panels, method, _seen(sweep))


def _at(eta: float, setting: Setting, windows: Sequence[Window], enhancer: Enhancer) -> _Sweep:
    """Restore every window once, and judge each kind."""
    sampling = sampling_of(setting, enhancer, eta)
    found = [restore_window(window, enhancer, sampling) for window in windows]
    sweep: _Sweep = {}
    for kind, value in _KINDS.items():
        blocks, weights = [], []
        for window, restored in zip(windows, found, strict=True):
            within = window.hidden & (window.classes == value)
            blocks += judge(window, restored.image, restored.reference, within)
            weights.append(restored.reference_weight[within])
        sweep[kind, eta] = Trial(tuple(blocks), float(np.concatenate(weights).mean()))
    return sweep


def _series(sweep: _Sweep, figure: str) -> tuple[Series, ...]:
    return tuple(Series(kind, ETAS, tuple(getattr(sweep[kind, eta], figure) for eta in ETAS)) for kind in _KINDS)


def _detail(sweep: _Sweep, kind: str) -> str:
    """Return where fine detail is best; nothing where no area of the kind is large enough."""
    errors = {eta: sweep[kind, eta].spectrum.mean for eta in ETAS}
    defined = {eta: error for eta, error in errors.items() if not math.isnan(error)}
    if not defined:
        return ""
    best = min(defined, key=lambda eta: defined[eta])
    return f", and fine detail at eta {best:g} ({defined[best]:.2f} dB off, the reference {defined[1.0]:.2f})"


def _seen(sweep: _Sweep) -> str:
    sentences = []
    for kind in _KINDS:
        eta = max(ETAS, key=lambda value: sweep[kind, value].psnr.mean)
        gain = f"{in_words(sweep[kind, eta].gain, 3)} dB above the reference"
        sentences.append(f"Under {kind} PSNR is best at eta {eta:g}, {gain}{_detail(sweep, kind)}.")
    return " ".join(sentences)
