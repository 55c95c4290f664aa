"""Runs the stages of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from de_model.data.pairs import Patches, PatchSampler, ScenePair
from de_model.enhancer import Condition, Enhancer
from de_model.errors import TrainingFailed
from de_model.radiometry import to_signed
from de_model.training.ema import MovingAverage
from de_model.training.losses import charbonnier, enhancement_loss, noise_loss
from de_model.training.stages import Stage, StageOptions

#: Gradients longer than this are shortened: early diffusion steps spike.
_CLIP_NORM = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Told after every step."""

    stage: Stage
    #: Steps done of this stage, from 1.
    step: int
    steps: int
    #: Loss terms of this step by name.
    losses: dict[str, float]


OnStep = Callable[[Progress], None]


def train(
    enhancer: Enhancer,
    pairs: Sequence[ScenePair],
    stages: Sequence[StageOptions],
    *,
    seed: int = 0,
    ema_rate: float = 0.9999,
    on_step: OnStep | None = None,
    on_stage_end: Callable[[Stage], None] | None = None,
) -> None:
    """Train `enhancer` in place through `stages`; it ends with the smoothed weights of each stage.

    Args:
        enhancer: the model, on the device to train on.
        pairs: cloudy/clear pairs, bands in the model's order.
        stages: what to train for how long, in order.
        seed: of patches, noise and timesteps; initial weights are the caller's.
        ema_rate: of the moving average.
        on_step: told after every step.
        on_stage_end: told after every stage, the weights being final for it (a checkpoint's moment).

    Raises:
        TrainingFailed: the loss is not finite, or the pairs hold no usable patch.
    """
    for options in stages:
        _train_stage(enhancer, pairs, options, seed, ema_rate, on_step)
        if on_stage_end is not None:
            on_stage_end(options.stage)
    enhancer.eval().requires_grad_(False)


def _train_stage(
    enhancer: Enhancer,
    pairs: Sequence[ScenePair],
    options: StageOptions,
    seed: int,
    ema_rate: float,
    on_step: OnStep | None,
) -> None:
    trained = nn.ModuleList(_trained(enhancer, options.stage))
    enhancer.requires_grad_(False)
    trained.requires_grad_(True).train()
    average = MovingAverage(trained, ema_rate)
    optimiser = torch.optim.AdamW(trained.parameters(), lr=options.learning_rate, weight_decay=0.0)
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _learning_rate(step, options.steps))
    sampler = PatchSampler(pairs, options.patch, options.downscale, seed)
    for step in range(options.steps):
        losses = _losses(
            enhancer, options.stage, sampler.batch(step, options.batch), _generator(seed, options.stage, step)
        )
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise TrainingFailed(
                f"Loss of stage {options.stage} is {total.item()} at step {step}; lower the learning rate."
            )
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), _CLIP_NORM)
        optimiser.step()
        decay.step()
        average.update(trained)
        if on_step is not None:
            on_step(Progress(options.stage, step + 1, options.steps, {k: v.item() for k, v in losses.items()}))
    average.copy_to(trained)


def _trained(enhancer: Enhancer, stage: Stage) -> Iterator[nn.Module]:
    if stage is Stage.REFERENCE:
        yield enhancer.reference
    if stage in (Stage.COARSE, Stage.FINE, Stage.JOINT):
        yield enhancer.predictor
    if stage in (Stage.ALLOCATION, Stage.JOINT):
        yield enhancer.allocation


def _learning_rate(step: int, steps: int) -> float:
    """Return the factor on the learning rate: a short rise, then half a cosine."""
    warm = max(1, min(100, steps // 10))
    return min(1.0, (step + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))


def _generator(seed: int, stage: Stage, step: int) -> torch.Generator:
    """Return the source of noise and timesteps of one step; the same whether or not training was resumed."""
    order = list(Stage).index(stage)
    return torch.Generator().manual_seed((seed * len(Stage) + order) * 10_000_000 + step)


def _losses(enhancer: Enhancer, stage: Stage, patches: Patches, random: torch.Generator) -> dict[str, Tensor]:
    device = next(enhancer.parameters()).device
    cloudy, clear, valid = (part.to(device) for part in (patches.cloudy, patches.clear, patches.valid))
    if stage is Stage.REFERENCE:
        return {"charbonnier": charbonnier(enhancer.reference(cloudy), clear, valid)}
    x0 = to_signed(clear)
    eps = torch.randn(x0.shape, generator=random).to(device)
    t = torch.randint(enhancer.schedule.timesteps, (len(x0),), generator=random).to(device)
    if stage in (Stage.COARSE, Stage.FINE):
        # WA and reference take no part yet: the reference would be work for nothing.
        condition = Condition(to_signed(cloudy), to_signed(cloudy))
        return {"noise": noise_loss(enhancer, x0, condition, valid, eps, t)}
    condition = enhancer.condition(cloudy)
    loss = enhancement_loss(enhancer, x0, condition, valid, eps, t)
    return {"noise": loss.noise, "fusion": loss.fusion} if stage is Stage.JOINT else {"fusion": loss.fusion}
