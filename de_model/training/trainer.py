"""Runs the stages of training, from where they were left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from de_model import checkpoint
from de_model.data.pairs import PairData
from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.training.objective import Batch, draw
from de_model.training.stage_run import StageRun
from de_model.training.stages import Stage, StageOptions, TrainingOptions
from de_model.training.store import Entry, Store
from de_model.training.validation import Restored, Validation, fixed_batch, restored, validate

#: Training patches shown at the end of a stage where there is no validation batch.
_SHOWN = 4


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
    #: Images trained on per second, all processes together, since the stage was begun or continued.
    images_per_s: float
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


def train(
    enhancer: Enhancer,
    data: PairData,
    stages: Sequence[StageOptions],
    options: TrainingOptions | None = None,
    *,
    store: Store | None = None,
    save_every: int = 100,
    validation: Validation | None = None,
    observers: Sequence[Observer] = (),
) -> tuple[StageResult, ...]:
    """Train `enhancer` in place through `stages`; it ends with the smoothed weights of each stage.

    Data, noise and timesteps depend on (seed, stage, step) only. So a training that was stopped at any moment and is
    continued from its store ends with the same weights, bit by bit on a CPU in float32.

    Args:
        enhancer: the model, on the device to train on.
        data: cloudy/clear patches, bands in the model's order.
        stages: what to train for how long, in order.
        options: how.
        store: keeps finished stages and the state of the one in progress; without it nothing is written.
        save_every: steps between saved states.
        validation: what to look at on the way.
        observers: called with what happens.

    Raises:
        TrainingFailed: gradients stay non-finite, memory is too small, or the data hold no usable patch.
        InvalidModelInput: data or stages do not fit the model.
        InvalidCheckpoint: the store's weights do not fit the model.
        OSError: the store's folder is full or cannot be written.
    """
    options = options or TrainingOptions()
    check(enhancer, data, stages, options)
    course = _Course(enhancer, data, options, store, max(1, save_every), validation, tuple(observers))
    results = tuple(course.run(stage) for stage in stages)
    enhancer.eval().requires_grad_(False)
    return results


def check(enhancer: Enhancer, data: PairData, stages: Sequence[StageOptions], options: TrainingOptions) -> None:
    """Find out before hours are spent whether every stage can run.

    Raises:
        InvalidModelInput: bands, patch sizes, batch sizes or stages do not fit.
        TrainingFailed: the data cannot serve a stage, such as a patch larger than every pair.
    """
    bands = enhancer.card.bands
    if data.bands != len(bands):
        raise InvalidModelInput(f"The data have {data.bands} bands, the model has {len(bands)} ({', '.join(bands)}).")
    for stage in stages:
        _check_stage(enhancer, stage, options)
        data.source(stage, options.seed)


def _check_stage(enhancer: Enhancer, stage: StageOptions, options: TrainingOptions) -> None:
    name, parts = stage.stage, options.accumulate
    if stage.steps < 1 or stage.batch < parts:
        raise InvalidModelInput(
            f"Stage {name}: {stage.steps} steps of {stage.batch} patches, worked through in {parts} "
            "pieces; there must be at least one step and one patch for each."
        )
    if stage.patch % enhancer.stride:
        raise InvalidModelInput(f"Stage {name}: patches of {stage.patch} px; use a multiple of {enhancer.stride} px.")
    if name is Stage.REFERENCE and not list(enhancer.reference.parameters()):
        raise InvalidModelInput("This model's reference has nothing to train; leave out the stage reference.")


@dataclass(frozen=True, slots=True)
class _Course:
    """What stays the same from stage to stage."""

    enhancer: Enhancer
    data: PairData
    options: TrainingOptions
    store: Store | None
    save_every: int
    validation: Validation | None
    observers: tuple[Observer, ...]

    def run(self, stage: StageOptions) -> StageResult:
        """Train one stage, or take its weights from the store."""
        finished = self.store.weights_of(stage.stage) if self.store else None
        if finished is not None:
            _copy_weights(checkpoint.load(finished), self.enhancer)
            return StageResult(stage.stage, stage.steps, before=True)
        run = self._continued(StageRun(self.enhancer, stage, self.options))
        source = self.data.source(stage, self.options.seed)
        held_out, looked_at = self._fixed_batches(stage)
        began, first, spent, losses = time.monotonic(), run.step, 0.0, {}
        while run.step < stage.steps:
            before = time.monotonic()
            batch = draw(source, stage, run.step, self.options.seed, self.enhancer.schedule.timesteps)
            losses = run.advance(batch)
            spent += time.monotonic() - before
            self._report(run, losses, (run.step - first) * stage.batch / max(spent, 1e-9))
            if run.step < stage.steps:
                self._pause(run, held_out)
        run.finish()
        scores = self._look(run, held_out)
        self._show(run, looked_at)
        rate = (run.step - first) * stage.batch / max(spent, 1e-9)
        result = StageResult(
            stage.stage, stage.steps, False, time.monotonic() - began, rate, run.skipped, losses, scores
        )
        self._finish(result)
        return result

    def _fixed_batches(self, stage: StageOptions) -> tuple[Batch | None, Batch | None]:
        """Return what is scored and what is shown."""
        timesteps, held_out = self.enhancer.schedule.timesteps, None
        if self.validation is not None:
            held_out = fixed_batch(self.validation.data, stage, self.validation.patches, timesteps)
        if held_out is not None or not self.observers:
            return held_out, held_out
        return None, fixed_batch(self.data, stage, _SHOWN, timesteps)

    def _continued(self, run: StageRun) -> StageRun:
        """Return the run at the step where the store left it."""
        snapshot = self.store.latest(run.stage.stage) if self.store else None
        if snapshot is not None:
            run.restore(snapshot)
        if self.store:
            self.store.history.cut(run.stage.stage, run.step)
        return run

    def _report(self, run: StageRun, losses: dict[str, float], rate: float) -> None:
        self._note(Entry(run.stage.stage, run.step, losses))
        progress = Progress(
            run.stage.stage, run.step, run.stage.steps, losses, run.used_learning_rate, rate, run.skipped
        )
        for observer in self.observers:
            observer.on_step(progress)

    def _note(self, entry: Entry) -> None:
        if self.store:
            self.store.history.add(entry)

    def _pause(self, run: StageRun, held_out: Batch | None) -> None:
        """Validate and save when it is time, in this order: what was measured must not be lost by a stop."""
        if self.validation is not None and run.step % self.validation.every == 0:
            with run.average.applied_to(run.trained):
                self._look(run, held_out)
        if self.store and run.step % self.save_every == 0:
            self.store.save(run.snapshot())
            for observer in self.observers:
                observer.on_saved()

    def _look(self, run: StageRun, held_out: Batch | None) -> dict[str, float]:
        """Validate the model as it is now."""
        if held_out is None or self.validation is None:
            return {}
        stage = run.stage.stage
        scores = validate(run.loss, held_out, self.validation.sampling_steps)
        self._note(Entry(stage, run.step, scores, validation=True))
        for observer in self.observers:
            observer.on_validation(stage, run.step, scores)
        return scores

    def _show(self, run: StageRun, batch: Batch | None) -> None:
        if batch is None or not self.observers:
            return
        stage = run.stage.stage
        images = restored(self.enhancer, stage, batch.to(next(self.enhancer.parameters()).device))
        for observer in self.observers:
            observer.on_samples(stage, run.step, images)

    def _finish(self, result: StageResult) -> None:
        if self.store:
            self.store.finish(result.stage, self.enhancer)
        for observer in self.observers:
            observer.on_stage_end(result)


@torch.no_grad()
def _copy_weights(origin: Enhancer, target: Enhancer) -> None:
    """Copy all weights, keeping the target's device and memory layout."""
    tensors: dict[str, Tensor] = origin.state_dict()
    for name, value in target.state_dict().items():
        value.copy_(tensors[name])
