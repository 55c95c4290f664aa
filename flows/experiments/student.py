"""Experiment `student`: what one step of a distilled student is worth beside the walks of its teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from de_model import checkpoint
from de_model.bench.clock import clock, one_thread
from de_model.distilled import Distilled
from de_model.enhancer import Enhancer
from de_model.inference.engine import Restoration
from de_model.inference.sampling import Sampling
from de_model.metrics.bootstrap import Bootstrap, Interval, difference_interval, mean_interval
from de_model.metrics.standard import Scores, score
from de_model.samplers.kinds import SamplerKind
from de_model.training.distillation import STUDENT_START, STUDENT_STEPS, TEACHER_STEPS
from de_model.training.stages import Stage
from flows.errors import InvalidSettings
from flows.experiments.chart import Panel, Series
from flows.experiments.setting import Findings, Setting
from flows.experiments.table import Cell, Column, Table, in_words
from flows.experiments.trained import pair_data, stage_of, train_on
from flows.experiments.trial import judge, restore_window
from flows.experiments.windows import BoolArray, FloatArray, Window, hold_out_windows
from flows.progress import tell

#: The ways that are compared; the first is the one to agree with, the last but one the one to beat.
FAITHFUL = "teacher, DDIM-10 (faithful)"
TAUGHT = f"teacher, {TEACHER_STEPS} steps from noise"
SINGLE = f"teacher, {STUDENT_STEPS} step from t = {STUDENT_START}"
STUDENT = f"student, {STUDENT_STEPS} step from t = {STUDENT_START}"
_COLUMNS = (
    Column("way"),
    Column("PSNR, dB", interval=True),
    Column("above the teacher's single step, dB", 3, interval=True, signed=True),
    Column("SSIM", 4),
    Column("MAE", 4),
    Column("PSNR against faithful, dB"),
    Column("SSIM against faithful", 4),
    Column("error and spread, correlation"),
    Column("seconds per window"),
)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one way makes of all windows, in their order."""

    made: tuple[Restoration, ...]
    #: Time of one window, one thread.
    seconds: float


@dataclass(frozen=True, slots=True)
class _Figures:
    """One way against the truth and against the faithful mode; means over windows where nothing else is said."""

    #: PSNR of every block of 64 px, in the same order for all ways.
    blocks: tuple[float, ...]
    ssim: float
    mae: float
    #: Against the faithful mode on all hidden pixels; NaN for itself.
    agreement_psnr: float
    agreement_ssim: float
    #: Over the scored pixels of all windows: absolute error against deviation of the samples, means of the bands.
    correlation: float
    seconds: float

    @property
    def psnr(self) -> Interval:
        """PSNR against the truth, mean over blocks, dB."""
        return mean_interval(self.blocks, Bootstrap())

    def above(self, other: _Figures) -> Interval:
        """Return the PSNR above another way's, block by block, dB."""
        return difference_interval(self.blocks, other.blocks, Bootstrap())


def run(setting: Setting) -> Findings:
    """Distil a student of the weights, and restore hold-out windows with it and with its teacher.

    Raises:
        InvalidSettings: there are not so many windows, no pairs, or the preset is not that of the weights.
        InvalidCheckpoint: the weights cannot be used.
    """
    windows, teacher = hold_out_windows(setting), checkpoint.load(setting.weights)
    if teacher.card.preset is not setting.preset:
        raise InvalidSettings(f"The teacher is of preset {teacher.card.preset}; add --preset {teacher.card.preset}.")
    usual = Sampling(setting.seed, eta=teacher.card.eta, tile=setting.side, overlap=0)
    few = replace(usual, sampler=SamplerKind.DPMPP2M, steps=TEACHER_STEPS)
    one = replace(few, steps=STUDENT_STEPS, start=STUDENT_START)
    with one_thread():
        ways = {
            FAITHFUL: (teacher, usual),
            TAUGHT: (teacher, few),
            SINGLE: (teacher, one),
            STUDENT: (_student(setting), one),
        }
        outcomes = {name: _walked(windows, *way, name) for name, way in ways.items()}
    figures = {name: _figures(windows, outcome, outcomes[FAITHFUL]) for name, outcome in outcomes.items()}
    rows = tuple(_row(name, found, figures[SINGLE]) for name, found in figures.items())
    return Findings(Table(_COLUMNS, rows), _panels(figures), _method(setting, windows, usual), _seen(figures))


def _student(setting: Setting) -> Enhancer:
    """Return a student of the weights, with the card that `unveil train --stage distil` gives it."""
    student = checkpoint.load(setting.weights)
    data, _ = pair_data(setting.train)
    train_on(data, student, [stage_of(setting, Stage.DISTIL)], setting, "student")
    teacher = checkpoint.sha256_of(setting.weights)
    student.card = replace(student.card, distilled=Distilled(STUDENT_STEPS, STUDENT_START, teacher))
    return student


def _walked(windows: Sequence[Window], enhancer: Enhancer, sampling: Sampling, name: str) -> _Outcome:
    device, made = next(enhancer.parameters()).device, list[Restoration]()
    began = clock(device)
    for number, window in enumerate(windows):
        tell(name, number, len(windows))
        made.append(restore_window(window, enhancer, sampling))
    return _Outcome(tuple(made), (clock(device) - began) / len(windows))


def _figures(windows: Sequence[Window], outcome: _Outcome, faithful: _Outcome) -> _Figures:
    against_truth, blocks = list[Scores](), list[float]()
    errors, spreads = list[FloatArray](), list[FloatArray]()
    for window, made in zip(windows, outcome.made, strict=True):
        at = window.scored & _whole(made)
        against_truth.append(score(made.image, window.truth, at, window.bands, window.seen))
        blocks += [block.psnr for block in judge(window, made.image, made.reference)]
        errors.append(np.abs(made.image - window.truth)[:, at].mean(axis=0))
        spreads.append(made.spread[:, at].mean(axis=0))
    agreement = (math.nan, math.nan) if outcome is faithful else _agreement(windows, outcome, faithful)
    return _Figures(
        tuple(blocks),
        float(np.mean([s.ssim for s in against_truth])),
        float(np.mean([s.mae for s in against_truth])),
        *agreement,
        float(np.corrcoef(np.concatenate(errors), np.concatenate(spreads))[0, 1]),
        outcome.seconds,
    )


def _agreement(windows: Sequence[Window], outcome: _Outcome, faithful: _Outcome) -> tuple[float, float]:
    """Return PSNR (dB) and SSIM against the faithful mode, whose every pixel may be looked at."""
    found = [
        score(own.image, other.image, window.hidden & _whole(own), window.bands)
        for window, own, other in zip(windows, outcome.made, faithful.made, strict=True)
    ]
    return float(np.mean([s.psnr for s in found])), float(np.mean([s.ssim for s in found]))


def _whole(made: Restoration) -> BoolArray:
    return np.asarray(np.isfinite(made.image).all(axis=0))


def _row(name: str, found: _Figures, single: _Figures) -> tuple[Cell, ...]:
    return (
        name,
        found.psnr,
        found.above(single),
        found.ssim,
        found.mae,
        found.agreement_psnr,
        found.agreement_ssim,
        found.correlation,
        found.seconds,
    )


def _panels(figures: Mapping[str, _Figures]) -> tuple[Panel, ...]:
    names = tuple(figures)
    others = names[1:]
    truth = Series("PSNR", names, tuple(f.psnr for f in figures.values()))
    faithful = Series("agreement", others, tuple(figures[name].agreement_psnr for name in others))
    time = Series("seconds", names, tuple(f.seconds for f in figures.values()))
    return (
        Panel("", "PSNR on hidden pixels, dB", (truth,)),
        Panel("", "PSNR against the faithful mode, dB", (faithful,)),
        Panel("", "seconds per window", (time,)),
    )


def _method(setting: Setting, windows: Sequence[Window], usual: Sampling) -> str:
    stage = stage_of(setting, Stage.DISTIL)
    return (
        f"The student has the teacher's networks and begins with its weights; it was trained on {stage.batch} patches "
        f"of {stage.patch} px a step, learning rate {stage.learning_rate:g}, towards what the teacher makes of the "
        f"same noise in {TEACHER_STEPS} steps. {len(windows)} hold-out windows of {setting.side} px, {usual.samples} "
        "samples each, eta of the weights, the same noise for every way. PSNR against the truth on hidden pixels, mean "
        "over blocks of 64 px with 95 % bootstrap intervals, differences paired; SSIM, MAE and the agreement with the "
        "faithful mode are means over windows. Seconds are those of one thread."
    )


def _seen(figures: Mapping[str, _Figures]) -> str:
    faithful, taught, single, student = (figures[name] for name in (FAITHFUL, TAUGHT, SINGLE, STUDENT))
    return (
        f"Against the truth the student is {_verdict(student.above(single))} its teacher's own single step, "
        f"{in_words(student.above(single), 3)} dB, and {_verdict(student.above(taught))} the {TEACHER_STEPS} steps it "
        f"was taught, {in_words(student.above(taught), 3)} dB. It agrees with the faithful mode to "
        f"{student.agreement_psnr:.1f} dB, the teacher's single step to {single.agreement_psnr:.1f} dB, its "
        f"{TEACHER_STEPS} steps to {taught.agreement_psnr:.1f} dB. It takes {student.seconds / faithful.seconds:.2f} "
        f"of the time of the faithful mode and {student.seconds / taught.seconds:.2f} of that of the {TEACHER_STEPS} "
        f"steps. Its spread and its error correlate by {student.correlation:.2f}, those of the teacher's single step "
        f"by {single.correlation:.2f}."
    )


def _verdict(difference: Interval) -> str:
    if not difference.excludes_zero:
        return "neither better nor worse than"
    return "better than" if difference.mean > 0 else "worse than"
