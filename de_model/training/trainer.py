"""Training of the first edition: on pairs of a cloudy and a clear image, coarse to fine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from de_model.data.pairs import PairData
from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.training.course import Course, Observer, StageResult
from de_model.training.objective import Batch, Objective, draw
from de_model.training.stage_run import Lesson, Validation, fixed_batch, restored, validate
from de_model.training.stages import Decay, Stage, StageOptions, TrainingOptions
from de_model.training.store import Store

#: Training patches shown at the end of a stage where there is no validation batch.
_SHOWN = 4


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
    """Train `enhancer` in place through `stages`, as `Course.run` says.

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
        OSError: the store's folder is full or cannot be written.
    """
    options = options or TrainingOptions()
    check(enhancer, data, stages, options)
    lessons = [lesson_of(enhancer, data, stage, options, validation) for stage in stages]
    return Course(enhancer, options, store, save_every, observers).run(lessons)


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
        name, parts = stage.stage, options.accumulate
        if stage.steps < 1 or stage.batch < parts:
            raise InvalidModelInput(
                f"Stage {name}: {stage.steps} steps of {stage.batch} patches, worked through in {parts} "
                "pieces; there must be at least one step and one patch for each."
            )
        if stage.patch % enhancer.card.stride:
            raise InvalidModelInput(
                f"Stage {name}: patches of {stage.patch} px; use a multiple of {enhancer.card.stride} px."
            )
        data.source(stage, options.seed)


def lesson_of(
    enhancer: Enhancer,
    data: PairData,
    stage: StageOptions,
    options: TrainingOptions,
    validation: Validation | None = None,
) -> Lesson[Batch]:
    """Return what a stage trains; arguments as for `train`."""
    objective, trained = Objective(enhancer, stage.stage), nn.ModuleList(_trained(enhancer, stage.stage))
    seen, patches = (data, _SHOWN) if validation is None else (validation.data, validation.patches)
    looked_at = fixed_batch(seen, stage, patches, enhancer.schedule.timesteps)

    def batches(first: int) -> Iterator[list[Batch]]:
        source = data.source(stage, options.seed)
        for step in range(first, stage.steps):
            batch = draw(source, stage, step, options.seed, enhancer.schedule.timesteps)
            yield batch.shares(options.accumulate)

    def loss(share: Batch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = objective(share.to(next(trained.parameters()).device))
        return terms

    return Lesson(
        stage,
        trained,
        torch.optim.AdamW(trained.parameters(), lr=stage.learning_rate, weight_decay=0.0),
        partial(_decayed, steps=stage.steps, decay=options.decay),
        batches,
        loss,
        score=None if validation is None else partial(validate, objective, looked_at, validation.sampling_steps),
        score_every=1 if validation is None else validation.every,
        show=partial(restored, enhancer, stage.stage, looked_at),
    )


def _trained(enhancer: Enhancer, stage: Stage) -> Iterator[nn.Module]:
    if stage is Stage.REFERENCE:
        yield enhancer.reference
    if stage in (Stage.COARSE, Stage.FINE, Stage.JOINT):
        yield enhancer.predictor
    if stage in (Stage.ALLOCATION, Stage.JOINT):
        yield enhancer.allocation


def _decayed(step: int, steps: int, decay: Decay) -> float:
    """Return the factor on the learning rate."""
    if decay is Decay.CONSTANT:
        return 1.0
    warm = max(1, min(100, steps // 10))
    return min(1.0, (step + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))
