"""Runs the stages of a training of either edition, from where they were left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from de_model.enhancer import Enhancer
from de_model.training.stage_run import Lesson, Restored, RunOptions, StageRun
from de_model.training.stages import Stage
from de_model.training.store import Store


@dataclass(frozen=True, slots=True)
class Progress:
    """Called after every step."""

    stage: Stage
    #: Steps done of this stage, from 1.
    step: int
    steps: int
    #: Loss terms of this step by name.
    losses: dict[str, float]
    learning_rate: float
    #: Images trained on per second, and share of the time spent waiting for them, since the stage was begun or
    #: continued.
    images_per_s: float
    waiting: float
    #: Steps of this stage skipped because their gradient was not finite.
    skipped: int


@dataclass(frozen=True, slots=True)
class StageResult:
    """What came of a stage."""

    stage: Stage
    steps: int
    #: Finished in an earlier run; the rest is empty then.
    before: bool = False
    seconds: float = 0.0
    images_per_s: float = 0.0
    skipped: int = 0
    #: Of the last step.
    losses: dict[str, float] = field(default_factory=dict)
    #: At the end, with the smoothed weights; empty without validation data.
    validation: dict[str, float] = field(default_factory=dict)


class Observer:
    """Follows a training; the methods do nothing here and are overridden as needed."""

    def on_step(self, progress: Progress) -> None:
        """A step was done."""

    def on_validation(self, stage: Stage, step: int, scores: dict[str, float]) -> None:
        """The smoothed weights were scored on the validation batch."""

    def on_samples(self, stage: Stage, step: int, images: Restored) -> None:
        """A stage is finished: its images of the validation batch, or of training patches where there is none."""

    def on_saved(self) -> None:
        """The state was saved: a training that is stopped goes on from here."""

    def on_stage_end(self, result: StageResult) -> None:
        """A stage is finished."""


@dataclass(frozen=True, slots=True)
class Course:
    """What stays the same from stage to stage."""

    enhancer: Enhancer
    options: RunOptions
    #: Keeps finished stages and the state of the one in progress; without it nothing is written.
    store: Store | None = None
    #: Steps between saved states.
    save_every: int = 100
    observers: Sequence[Observer] = ()

    def run(self, lessons: Sequence[Lesson[Any]]) -> tuple[StageResult, ...]:
        """Train in place through the stages, in order; the model ends with the smoothed weights of each.

        What a step sees and draws depends on (seed, stage, step) only. So a training that was stopped at any moment
        and is continued from its store ends with the same weights, bit by bit on a CPU in float32.

        Raises:
            TrainingFailed: gradients stay non-finite, memory is too small, or the data hold no usable patch.
            OSError: the store's folder is full or cannot be written.
        """
        results = tuple(self._stage(lesson, position) for position, lesson in enumerate(lessons))
        self.enhancer.eval().requires_grad_(False)
        return results

    def _stage(self, lesson: Lesson[Any], position: int) -> StageResult:
        """Train one stage, or take its weights from the store."""
        stage = lesson.stage
        finished = self.store.weights_of(stage.stage) if self.store else None
        if finished is not None:
            _copy_weights(finished, self.enhancer)
            return StageResult(stage.stage, stage.steps, before=True)
        run = StageRun(self.enhancer, lesson, self.options, position)
        snapshot = self.store.latest(stage.stage) if self.store else None
        if snapshot is not None:
            run.restore(snapshot)
        began, rate, losses = time.monotonic(), 0.0, {}
        first, spent, waited = run.step, 1e-9, 0.0
        batches = lesson.batches(run.step)
        while run.step < stage.steps:
            asked = time.monotonic()
            shares = next(batches)
            given = time.monotonic()
            losses = run.advance(shares)
            spent, waited = spent + time.monotonic() - asked, waited + given - asked
            rate = (run.step - first) * stage.batch / spent
            self._report(run, losses, rate, waited / spent)
            if run.step < stage.steps:
                self._pause(run)
        run.finish()
        scores = self._look(run)
        self._show(run)
        seconds = time.monotonic() - began
        result = StageResult(stage.stage, stage.steps, False, seconds, rate, run.skipped, losses, scores)
        if self.store:
            self.store.finish(stage.stage, self.enhancer)
        for observer in self.observers:
            observer.on_stage_end(result)
        return result

    def _report(self, run: StageRun[Any], losses: dict[str, float], rate: float, waiting: float) -> None:
        stage = run.stage
        progress = Progress(
            stage.stage, run.step, stage.steps, losses, run.used_learning_rate, rate, waiting, run.skipped
        )
        for observer in self.observers:
            observer.on_step(progress)

    def _pause(self, run: StageRun[Any]) -> None:
        """Validate and save when it is time, in this order: what was measured must not be lost by a stop."""
        if run.step % run.lesson.score_every == 0:
            with run.average.applied_to(run.trained):
                self._look(run)
        if self.store and run.step % self.save_every == 0:
            self.store.save(run.snapshot())
            for observer in self.observers:
                observer.on_saved()

    def _look(self, run: StageRun[Any]) -> dict[str, float]:
        """Validate the model as it is now."""
        if run.lesson.score is None:
            return {}
        scores = run.lesson.score()
        for observer in self.observers:
            observer.on_validation(run.stage.stage, run.step, scores)
        return scores

    def _show(self, run: StageRun[Any]) -> None:
        if run.lesson.show is None or not self.observers:
            return
        images = run.lesson.show()
        for observer in self.observers:
            observer.on_samples(run.stage.stage, run.step, images)


@torch.no_grad()
def _copy_weights(path: Path, target: Enhancer) -> None:
    """Copy all weights of a file, keeping the target's device and memory layout."""
    tensors = load_file(path)
    for name, value in target.state_dict().items():
        value.copy_(tensors[name])
