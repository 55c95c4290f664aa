"""Ablation `resolution-transfer`: a model of one pixel size on imagery of another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import zoom

from benchmarks.ablations.setting import Cell, Column, Findings, Setting, Table, in_words
from benchmarks.ablations.windows import (
    BoolArray,
    FloatArray,
    Trial,
    Window,
    hold_out_windows,
    in_steps,
    judge,
    restore_window,
    sampling_of,
)
from benchmarks.chart import Panel, Series
from de_model import checkpoint
from de_model.enhancer import Enhancer
from flows.progress import report_progress

#: Windows are twice as large as elsewhere, so that something is left when they are thinned; the sample has six.
_LARGER, _MOST_WINDOWS = 2, 4
_HERE, _BEFORE, _ENLARGED = "restored as it is", "restored at {gsd:g} m, then averaged", "enlarged, restored, averaged"
_COLUMNS = (
    Column("pixel, m", 0),
    Column("way"),
    Column("PSNR, dB", interval=True),
    Column("above its reference, dB", 3, interval=True, signed=True),
    Column("spectrum error, dB"),
    Column("mean W"),
    Column("blocks"),
)


@dataclass(frozen=True, slots=True)
class Way:
    """Work on pixels `work` times as large as those of the windows, and score on those `score` times as large."""

    title: str
    work: float
    score: int


def run(setting: Setting) -> Findings:
    """Restore hold-out windows thinned and enlarged.

    Raises:
        InvalidSettings: the cells hold too few windows of twice the side.
        InvalidCheckpoint: the weights cannot be used.
    """
    enhancer = checkpoint.load(setting.weights)
    larger = replace(setting, side=_LARGER * setting.side, windows=min(setting.windows, _MOST_WINDOWS))
    windows = hold_out_windows(larger)
    gsd = windows[0].gsd_m
    ways = list(_ways(gsd))
    trials = []
    for number, way in enumerate(ways):
        report_progress(way.title, number, len(ways))
        trials.append(_try(way, windows, enhancer, setting))
    rows: list[tuple[Cell, ...]] = [
        (gsd * way.score, way.title, t.psnr, t.gain, t.spectrum.mean, t.weight, len(t.blocks))
        for way, t in zip(ways, trials, strict=True)
    ]
    names = tuple(f"{gsd * way.score:g} m, {way.title}" for way in ways)
    panels = (
        Panel(
            "",
            "PSNR above its reference, dB",
            (Series("gain", names, tuple(t.gain for t in trials)),),
            level=0,
        ),
        Panel("", "PSNR on hidden pixels, dB", (Series("PSNR", names, tuple(t.psnr for t in trials)),)),
    )
    method = (
        f"{len(windows)} hold-out windows of {larger.side} px of {gsd:g} m, {in_steps(enhancer)}. Larger pixels are "
        "means; a thinned pixel is hidden where any of its parts is, and scored where all are hidden and all known. "
        "Rows of one pixel size are scored on the same pixels. Enlarged imagery is interpolated: it has the size of "
        "finer imagery and none of its detail."
    )
    return Findings(Table(_COLUMNS, tuple(rows)), panels, method, _seen(ways, trials, gsd))


def _ways(gsd: float) -> Iterator[Way]:
    yield Way(_ENLARGED, 0.5, 1)
    yield Way(_HERE, 1, 1)
    for factor in (2, 4):
        yield Way(_HERE, factor, factor)
        yield Way(_BEFORE.format(gsd=gsd), 1, factor)


def _try(way: Way, windows: Sequence[Window], enhancer: Enhancer, setting: Setting) -> Trial:
    blocks, weights = [], []
    for window in windows:
        worked = _enlarged(window, round(1 / way.work)) if way.work < 1 else _thinned(window, round(way.work))
        tile = min(setting.side, *worked.hidden.shape)
        sampling = replace(sampling_of(setting, enhancer), tile=tile, overlap=tile // 4)
        found = restore_window(worked, enhancer, sampling)
        factor = round(way.score / way.work)
        image, reference = (_means(part, factor) for part in (found.image, found.reference))
        blocks += judge(_thinned(window, way.score), image, reference)
        weights.append(float(found.reference_weight[worked.hidden].mean()))
    return Trial(tuple(blocks), float(np.mean(weights)))


def _thinned(window: Window, factor: int) -> Window:
    """Return the window on pixels `factor` times as large."""
    if factor == 1:
        return window
    hidden = _means(window.hidden[None].astype(np.float32), factor)[0] > 0
    # What is known of a thinned pixel is the mean of its parts: all must be known, and all hidden where any is.
    whole = _all(window.seen, factor) & (_all(window.hidden, factor) | ~hidden)
    cloudy, truth, composite = (_means(image, factor) for image in (window.cloudy, window.truth, window.composite))
    row, column = window.origin
    return replace(
        window,
        cloudy=cloudy,
        truth=truth,
        composite=composite,
        classes=window.classes[::factor, ::factor],
        hidden=hidden,
        seen=whole,
        origin=(row // factor, column // factor),
        gsd_m=window.gsd_m * factor,
    )


def _enlarged(window: Window, factor: int) -> Window:
    """Return the window on pixels `factor` times as small, interpolated linearly; only what is restored is enlarged."""
    cloudy = np.stack([zoom(band, factor, order=1, grid_mode=True, mode="nearest") for band in window.cloudy])
    hidden = window.hidden.repeat(factor, axis=0).repeat(factor, axis=1)
    row, column = window.origin
    origin, gsd_m = (row * factor, column * factor), window.gsd_m / factor
    return replace(window, cloudy=cloudy.astype(np.float32), hidden=hidden, origin=origin, gsd_m=gsd_m)


def _means(image: FloatArray, factor: int) -> FloatArray:
    """Return means of blocks `(band, y, x)`; NaN where any part is."""
    bands, height, width = image.shape
    blocks = image.reshape(bands, height // factor, factor, width // factor, factor)
    means: FloatArray = blocks.mean(axis=(2, 4), dtype=np.float64).astype(np.float32)
    return means


def _all(mask: BoolArray, factor: int) -> BoolArray:
    height, width = mask.shape
    blocks = mask.reshape(height // factor, factor, width // factor, factor)
    return np.asarray(blocks.all(axis=(1, 3)))


def _seen(ways: Sequence[Way], trials: Sequence[Trial], gsd: float) -> str:
    found = {(way.work, way.score): trial for way, trial in zip(ways, trials, strict=True)}
    sentences = []
    for factor in (2, 4):
        there, before = found[factor, factor], found[1, factor]
        sentences.append(
            f"At {gsd * factor:g} m the model is {in_words(there.above(before))} dB against restoring at {gsd:g} m and "
            f"averaging; its gain over its own reference is {there.gain.mean:+.3f} dB there and "
            f"{found[1, 1].gain.mean:+.3f} dB at {gsd:g} m."
        )
    enlarged = found[0.5, 1].above(found[1, 1])
    return " ".join(sentences) + f" Enlarged twofold it is {in_words(enlarged)} dB against the image as it is."
