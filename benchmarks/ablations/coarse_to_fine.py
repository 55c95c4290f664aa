"""Ablation `coarse-to-fine`: does it pay to train on thinned imagery first?"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from benchmarks.ablations.setting import Cell, Column, Findings, Setting, Table, in_words
from benchmarks.ablations.trained import pair_data, stage_of, train_on, untrained, without_allocation
from benchmarks.ablations.windows import Trial, hold_out_windows, try_on
from benchmarks.chart import Panel, Series
from de_model.enhancer import Enhancer
from de_model.inference.sampling import Sampling
from de_model.training.course import Observer, Progress
from de_model.training.objective import Batch, Objective
from de_model.training.stage_run import fixed_batch, validate
from de_model.training.stages import Stage, StageOptions

#: Points of a curve, and the patches each is measured on, for every hold-out window that is asked for.
_POINTS, _PATCHES = 10, 4
#: DDIM evaluations of a point, and tile of the hold-out windows, pixels: the patch that was trained on.
_SAMPLING_STEPS, _TILE = 5, 32
_COLUMNS = (
    Column("training"),
    Column("steps"),
    Column("noise loss on hold-out", 4),
    Column("PSNR of hold-out patches, dB"),
    Column("PSNR of hold-out windows, dB", interval=True),
    Column("above direct, dB", 3, interval=True, signed=True),
)
_DIRECT, _BOTH, _TURNED = "direct", "coarse, then fine", "fine, then coarse"


@dataclass(slots=True)
class Curve(Observer):
    """Measures the diffusion alone at full resolution on the way, whatever stage it is in."""

    enhancer: Enhancer
    batch: Batch
    every: int
    #: (steps of all stages, noise loss, PSNR in dB).
    points: list[tuple[int, float, float]] = field(default_factory=list)
    _before: int = 0

    def on_step(self, progress: Progress) -> None:
        """Measure when it is time."""
        if progress.step % self.every == 0:
            self._measure(self._before + progress.step)
        if progress.step == progress.steps:
            self._before += progress.steps

    @torch.no_grad()
    def _measure(self, steps: int) -> None:
        scores = validate(Objective(self.enhancer, Stage.FINE), self.batch, _SAMPLING_STEPS)
        self.points.append((steps, scores["noise"], scores["psnr"]))


def run(setting: Setting) -> Findings:
    """Train the noise predictor with the same number of steps in several orders.

    Raises:
        InvalidSettings: there are not so many windows, or no pairs.
    """
    coarse, fine = stage_of(setting, Stage.COARSE), stage_of(setting, Stage.FINE)
    both = 2 * setting.steps
    ways = {
        _DIRECT: (stage_of(setting, Stage.FINE, steps=both),),
        _BOTH: (coarse, fine),
        _TURNED: (fine, coarse),
    }
    curves, trials = {}, {}
    for name, stages in ways.items():
        curves[name], trials[name] = _train(setting, name, stages)
    rows: list[tuple[Cell, ...]] = [
        (name, both, *curves[name].points[-1][1:], trials[name].psnr, trials[name].above(trials[_DIRECT]))
        for name in ways
    ]
    panels = (
        Panel("steps", "noise loss on hold-out patches", _series(curves, 1)),
        Panel("steps", "PSNR of hold-out patches, dB", _series(curves, 2)),
    )
    judged = _PATCHES * setting.windows
    method = (
        f"The noise predictor alone, {both} steps of {fine.batch} patches of {fine.patch} px on {_cells(setting)}; "
        f"coarse patches are averaged {coarse.downscale}-fold. Curves: raw weights on {judged} patches of the hold-out "
        f"at full resolution, DDIM-{_SAMPLING_STEPS}, no reference. Windows: {setting.windows} of {setting.side} px, "
        f"smoothed weights, W = 0, tiles of {_TILE} px. Intervals are over blocks, not over trainings: repeat with "
        "another --seed before an order is preferred for less than half a decibel."
    )
    return Findings(Table(_COLUMNS, tuple(rows)), panels, method, _seen(curves, trials))


def _train(setting: Setting, name: str, stages: tuple[StageOptions, ...]) -> tuple[Curve, Trial]:
    data, gsd_m = pair_data(setting.train)
    held_out, _ = pair_data(setting.hold_out)
    enhancer = untrained(setting, setting.train.bands, gsd_m)
    batch = fixed_batch(
        held_out, stage_of(setting, Stage.FINE), _PATCHES * setting.windows, enhancer.schedule.timesteps
    )
    curve = Curve(enhancer, batch, max(1, 2 * setting.steps // _POINTS))
    train_on(data, enhancer, stages, setting, name, [curve])
    sampling = Sampling(setting.seed, 1, 10, 0.0, _TILE, _TILE // 4)
    return curve, try_on(hold_out_windows(setting), without_allocation(enhancer), sampling, name=f"{name}: restoring")


def _cells(setting: Setting) -> str:
    return ", ".join(setting.train.cells)


def _series(curves: dict[str, Curve], place: int) -> tuple[Series, ...]:
    return tuple(
        Series(name, tuple(float(p[0]) for p in curve.points), tuple(p[place] for p in curve.points))
        for name, curve in curves.items()
    )


def _seen(curves: dict[str, Curve], trials: dict[str, Trial]) -> str:
    direct, both = curves[_DIRECT].points[-1], curves[_BOTH].points[-1]
    turned = trials[_TURNED].above(trials[_DIRECT])
    return (
        f"After as many steps, coarse to fine ends at a noise loss of {both[1]:.4f} against {direct[1]:.4f} of direct "
        f"training, and restores hold-out windows {in_words(trials[_BOTH].above(trials[_DIRECT]))} dB against it; the "
        f"order turned round, {in_words(turned)} dB."
    )
