"""Training of the second edition: reference, conditional diffusion, W, then both together; each on cases of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from de_model.data.cases import Batch
from de_model.enhancer import Enhancer
from de_model.errors import InvalidModelInput
from de_model.scene.model import SceneNetworks
from de_model.scene.networks import Belief, IndependentPredictor, Inputs
from de_model.training.course import Course, Observer, StageResult
from de_model.training.stage_run import Lesson
from de_model.training.stages import Stage, StageOptions
from de_model.training.store import Store

#: Share of the diffusion's own likelihood, so that its variance stays one; least squared error that counts.
_BELIEF, _LEAST_ERROR = 0.2, 3e-3
#: Logits that are tried after the training: factors on W's own, and constants that are added.
_FACTORS, _ADDED = (0.0, 0.25, 0.5, 1.0, 2.0), (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.5)
#: Differences below are taken for none.
_TIE_DB = 0.01


@dataclass(frozen=True, slots=True)
class SceneTrainingOptions:
    """What all stages share."""

    seed: int = 0
    weight_decay: float = 0.05
    warmup: int = 100
    ema_rate: float = 0.998
    clip_norm: float = 1.0
    #: Exponent of the variance that weighs the pixels of a case (beta-NLL): 0 likelihood, 1 squared error. Every case
    #: counts alike whatever its contrast, as decibels do.
    beta: float = 0.75
    #: Share of the squared error in reflectance, so that scenes of large contrast count too.
    reflectance: float = 0.02
    #: Weight of a visible pixel against a hidden one.
    visible: float = 0.03
    #: Latest step that is trained: sampling begins here or later.
    t_start: int = 999
    bfloat16: bool = True
    #: Share of real pairs, a cloudy date and a clear one, among the cases of the joint stage. Clouds that are laid on
    #: other ground are thinner than real ones look: trained on them alone, real dates get worse.
    joint_pairs: float = 0.35


class CaseData(Protocol):
    """Gives the batches of a stage, always the same."""

    def batches(self, first: int, last: int, size: int) -> Iterator[Batch]:
        """Yield the batches of steps `first` to `last - 1`."""
        ...


def train_scene(
    enhancer: Enhancer,
    stages: Sequence[tuple[StageOptions, CaseData]],
    options: SceneTrainingOptions,
    store: Store | None = None,
    save_every: int = 100,
    observers: Sequence[Observer] = (),
) -> tuple[StageResult, ...]:
    """Train a model of the second edition in place through its stages, as `Course.run` says.

    Args:
        enhancer: the model, on the device to train on.
        stages: what is trained for how long (`reference`, `fine`: the conditional diffusion, `allocation`, `joint`:
            the last layers of the diffusion, and W), and the cases of each: what rests on a network must not learn
            from its errors on cases that it knows.
        options: how.
        store: keeps finished stages and the state of the one in progress; without it nothing is written.
        save_every: steps between saved states.
        observers: called with what happens.

    Raises:
        TrainingFailed: gradients stay non-finite, or memory is too small.
        InvalidModelInput: the model is of the first edition, or a stage belongs to it.
        OSError: the store's folder is full or cannot be written.
    """
    if enhancer.scene is None:
        raise InvalidModelInput("This model is of the first edition; train it on pairs.")
    lessons = [_lesson(enhancer, enhancer.scene, stage, data, options) for stage, data in stages]
    return Course(enhancer, options, store, save_every, observers).run(lessons)


def _lesson(
    enhancer: Enhancer, networks: SceneNetworks, stage: StageOptions, data: CaseData, options: SceneTrainingOptions
) -> Lesson[Batch]:
    trained = {
        Stage.REFERENCE: networks.reference,
        Stage.FINE: networks.predictor,
        Stage.ALLOCATION: networks.allocation,
        Stage.JOINT: nn.ModuleList([networks.predictor.last, networks.allocation]),
    }.get(stage.stage)
    if trained is None:
        raise InvalidModelInput(f"Stage {stage.stage} belongs to the first edition; leave it out.")
    optimiser = torch.optim.AdamW(
        trained.parameters(), lr=stage.learning_rate, betas=(0.9, 0.99), weight_decay=options.weight_decay, eps=1e-7
    )

    def batches(first: int) -> Iterator[list[Batch]]:
        return ([batch] for batch in data.batches(first, stage.steps, stage.batch))

    def decay(step: int) -> float:
        warm = min(1.0, (step + 1) / options.warmup)
        return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / stage.steps))))

    def prepare() -> None:
        if stage.stage is Stage.FINE and isinstance(networks.predictor, IndependentPredictor):
            networks.predictor.begin_at(networks.reference)

    loss = partial(_loss, networks, stage.stage, options, enhancer.card.eta)
    return Lesson(stage, trained, optimiser, decay, batches, loss, prepare)


def _loss(
    networks: SceneNetworks, stage: Stage, options: SceneTrainingOptions, eta: float, batch: Batch
) -> dict[str, Tensor]:
    device = next(networks.parameters()).device
    batch = Batch(*(part.to(device) for part in batch))
    inputs = Inputs(batch.maps, batch.numbers, networks.bands)
    if stage is Stage.JOINT:
        return _joint_loss(networks, inputs, batch, options, eta)
    with torch.autocast(device.type, torch.bfloat16, enabled=options.bfloat16):
        if stage is Stage.REFERENCE:
            return {"loss": likelihood(networks.reference(inputs), batch, options)}
        if stage is Stage.ALLOCATION:
            return {"loss": _allocation_loss(networks, inputs, batch, options)}
        reference = None if networks.independent else _reference(networks, inputs)
        x_t, t = visited(networks, networks.origin(inputs, reference), options.t_start)
        return {"loss": likelihood(networks.predicted(x_t, inputs, reference, t), batch, options)}


@torch.no_grad()
def _reference(networks: SceneNetworks, inputs: Inputs) -> Belief:
    found = networks.reference(inputs)
    return Belief(found.mean.float(), found.log_variance.float())


def _allocation_loss(networks: SceneNetworks, inputs: Inputs, batch: Batch, options: SceneTrainingOptions) -> Tensor:
    reference = _reference(networks, inputs)
    x_t, t = visited(networks, networks.origin(inputs, reference), options.t_start)
    signal, noise = networks.schedule.coefficients(t, x_t)
    with torch.no_grad():
        found = networks.predicted(x_t, inputs, reference, t)
        found = Belief(found.mean.float(), found.log_variance.float())
    # In bfloat16 this network's gradients are not finite on some processors; it is small.
    with torch.autocast(x_t.device.type, enabled=False):
        share = networks.allocation(x_t, inputs, reference, found, signal, noise)
    fused = share * reference.mean + (1 - share) * found.mean
    scale = reference.log_variance.exp().clamp_min(0.05)
    return _mean(robust(fused - batch.truth) / scale, batch, options.visible)


def _joint_loss(
    networks: SceneNetworks, inputs: Inputs, batch: Batch, options: SceneTrainingOptions, eta: float
) -> dict[str, Tensor]:
    """Return the error of the fused image, every case by its decibels, and a share of the diffusion's likelihood."""
    reference = _reference(networks, inputs)
    x_t, t = visited(networks, networks.origin(inputs, reference), options.t_start)
    found = networks.estimate(x_t, inputs, reference, t, eta)
    bands = networks.bands
    deviation = batch.numbers[:, bands : 2 * bands].exp()[:, :, None, None]
    error = _case_mean(robust(found.fused - batch.truth) * deviation.square(), batch.wanted)
    hidden = batch.wanted.flatten(1).any(dim=1).view(-1, 1, 1, 1)
    fused = torch.where(hidden, (error + _LEAST_ERROR).log(), 0).mean()
    return {"fused": fused, "belief": _BELIEF * likelihood(found.found, batch, options)}


@torch.no_grad()
def fitted_share(networks: SceneNetworks, data: CaseData, batches: int, size: int, t: int) -> tuple[float, float]:
    """Return factor and constant for the logit of W with which the fused estimate errs least, in decibels of a case.

    Of those that differ by less than 0.01 dB the one with most of what W has learnt is taken.

    Args:
        networks: trained, with a logit that is not changed yet.
        data: fresh cases of the places that were trained on.
        batches: how many are looked at, of `size` cases each.
        t: step that is looked at: where sampling begins.
    """
    tried = [(factor, added) for factor in _FACTORS for added in _ADDED]
    gains = torch.zeros(len(tried))
    for batch in data.batches(0, batches, size):
        inputs = Inputs(batch.maps, batch.numbers, networks.bands)
        reference = networks.reference(inputs)
        at = torch.full((len(batch.maps),), t)
        generator = torch.Generator().manual_seed(batches)
        origin = networks.origin(inputs, reference)
        x_t = networks.schedule.add_noise(origin, torch.randn(origin.shape, generator=generator), at)
        found = networks.estimate(x_t, inputs, reference, at, 0.0)
        logit = torch.logit(found.weight, 1e-6)
        scale = (batch.numbers[:, networks.bands : 2 * networks.bands].exp() ** 2)[:, :, None, None]
        for index, (factor, added) in enumerate(tried):
            share = torch.sigmoid(factor * logit + added)
            error = (share * reference.mean + (1 - share) * found.found.mean - batch.truth).square() * scale
            gains[index] -= _case_mean(error, batch.wanted).clamp_min(1e-8).log().mean()
    gains *= 10 / math.log(10) / batches
    near = [pair for pair, gain in zip(tried, gains.tolist(), strict=True) if gain > float(gains.max()) - _TIE_DB]
    factor = max(pair[0] for pair in near)
    return max((pair for pair in near if pair[0] == factor), key=lambda pair: float(gains[tried.index(pair)]))


def likelihood(belief: Belief, batch: Batch, options: SceneTrainingOptions) -> Tensor:
    """Return the weighed negative log-likelihood of the truth, and a share of the squared error in reflectance."""
    mean, log_variance = belief.mean.float(), belief.log_variance.float()
    squared = robust(mean - batch.truth)
    weight = (options.beta * log_variance).exp().detach()
    weight = weight / _case_mean(weight, batch.wanted).clamp_min(1e-3)
    terms = weight * 0.5 * (squared * (-log_variance).exp() + log_variance)
    bands = mean.shape[1]
    deviation = batch.numbers[:, bands : 2 * bands].exp()[:, :, None, None]
    return _mean(terms + options.reflectance * 0.5 * squared * deviation.square().clamp(max=9), batch, options.visible)


def _case_mean(values: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean over the hidden pixels of every case, `(batch, 1, 1, 1)`."""
    total = wanted.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1.0)
    return (values.mean(dim=1, keepdim=True) * wanted).sum(dim=(1, 2, 3), keepdim=True) / total


def robust(error: Tensor, limit: float = 4.0) -> Tensor:
    """Return the squared error, linear beyond `limit` deviations of the scene."""
    size = error.abs()
    return torch.where(size < limit, error.square(), limit * (2 * size - limit))


def _mean(terms: Tensor, batch: Batch, visible: float) -> Tensor:
    """Return the mean over hidden pixels, and a little of the visible ones, every case alike."""
    weight = batch.wanted + visible * (batch.valid - batch.wanted).clamp_min(0)
    total = weight.sum(dim=(2, 3)).clamp_min(1.0)
    return ((terms.mean(dim=1, keepdim=True) * weight).sum(dim=(2, 3)) / total).mean()


def visited(networks: SceneNetworks, origin: Tensor, t_start: int) -> tuple[Tensor, Tensor]:
    """Return states as sampling from the noised origin visits them, and their timesteps.

    They hold the origin below the noise and nothing of the truth: a network that saw the truth in its states would
    take the noise of sampling for detail.
    """
    t = torch.randint(0, t_start + 1, (len(origin),), device=origin.device)
    return networks.schedule.add_noise(origin, torch.randn_like(origin), t), t
