"""Ablation `fixed-weights`: what the weight network is worth against one W for all pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.ablations.setting import Cell, Column, Findings, Setting, Table, in_words
from benchmarks.ablations.trained import without_allocation
from benchmarks.ablations.windows import Trial, Window, hold_out_windows, in_steps, sampling_of, try_on
from benchmarks.chart import Panel, Series
from de_model import checkpoint
from de_model.enhancer import Enhancer

FIXED = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_LEARNT = "learnt"
_COLUMNS = (
    Column("W"),
    Column("mean W"),
    Column("PSNR, dB", interval=True),
    Column("above the reference, dB", 3, interval=True, signed=True),
    Column("learnt W above it, dB", 3, interval=True, signed=True),
    Column("spectrum error, dB", interval=True),
)


def run(setting: Setting) -> Findings:
    """Restore hold-out windows with the learnt W and with constants.

    Raises:
        InvalidSettings: there are not so many windows.
        InvalidCheckpoint: the weights cannot be used.
    """
    windows, enhancer = hold_out_windows(setting), checkpoint.load(setting.weights)
    trials = dict(_trials(setting, windows, enhancer))
    learnt = trials[_LEARNT]
    rows: list[tuple[Cell, ...]] = [
        (name, t.weight, t.psnr, t.gain, learnt.above(t), t.spectrum) for name, t in trials.items()
    ]
    constant = [trials[f"{value:g}"] for value in FIXED]
    panels = (
        Panel("W", "PSNR on hidden pixels, dB", _series(constant, learnt, "psnr")),
        Panel("W", "spectrum error, dB", _series(constant, learnt, "spectrum")),
    )
    method = (
        f"{len(windows)} hold-out windows of {setting.side} px, {in_steps(enhancer)}. A fixed W takes the place of "
        "the weight network in every step. With separated gradients the noise predictor never sees W in training, so "
        "these are the models that training with a fixed W would give. Scores over "
        f"{len(learnt.blocks)} blocks of 64 px, 95 % paired bootstrap."
    )
    return Findings(Table(_COLUMNS, tuple(rows)), panels, method, _seen(trials))


def _trials(setting: Setting, windows: Sequence[Window], enhancer: Enhancer) -> Iterator[tuple[str, Trial]]:
    yield _LEARNT, try_on(windows, enhancer, sampling_of(setting, enhancer), name="learnt W")
    without_allocation(enhancer)
    for value in FIXED:
        sampling = sampling_of(setting, enhancer, value)
        yield f"{value:g}", try_on(windows, enhancer, sampling, name=f"W = {value:g}")


def _series(constant: Sequence[Trial], learnt: Trial, figure: str) -> tuple[Series, ...]:
    return (
        Series("fixed", FIXED, tuple(getattr(trial, figure).mean for trial in constant)),
        Series("learnt, at its mean", (learnt.weight,), (getattr(learnt, figure).mean,)),
    )


def _seen(trials: dict[str, Trial]) -> str:
    learnt = trials[_LEARNT]
    best = max((f"{value:g}" for value in FIXED), key=lambda name: trials[name].psnr.mean)
    against = learnt.above(trials[best])
    verdict = "better" if against.low > 0 else "worse" if against.high < 0 else "not distinguishable"
    sharp = min(trials, key=lambda name: trials[name].spectrum.mean)
    return (
        f"The best constant by PSNR is W = {best}. The learnt W, {learnt.weight:.2f} on average, is {verdict}: "
        f"{in_words(against, 3)} dB. By fine detail the best is W = {sharp} "
        f"({trials[sharp].spectrum.mean:.2f} dB off; learnt {learnt.spectrum.mean:.2f} dB)."
    )
