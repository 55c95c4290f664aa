"""Training of the second edition: reference, then conditional diffusion, then W, each on the same cases."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from de_model.data.case_stream import Batch
from de_model.errors import TrainingFailed
from de_model.scene.model import SceneNetworks
from de_model.scene.networks import Belief, IndependentPredictor, Inputs
from de_model.training.stage_run import MovingAverage


class SceneStage(StrEnum):
    """What is trained, in this order; what was trained before is frozen."""

    REFERENCE = "reference"
    PREDICTOR = "predictor"
    ALLOCATION = "allocation"


@dataclass(frozen=True, slots=True)
class SceneStageOptions:
    """How long and how fast a stage is trained."""

    stage: SceneStage
    steps: int
    batch: int = 12
    learning_rate: float = 1.5e-3


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


class CaseData(Protocol):
    """Gives the batches of a training, always the same."""

    fingerprint: str

    def batches(self, first: int, last: int, size: int) -> Iterator[Batch]:
        """Yield the batches of steps `first` to `last - 1`."""
        ...


@dataclass(frozen=True, slots=True)
class SceneProgress:
    """Called after every step."""

    stage: SceneStage
    step: int
    steps: int
    loss: float
    learning_rate: float
    #: Cases per second, and the share of time spent waiting for data, since the start or continuation.
    cases_per_s: float
    waiting: float


OnStep = Callable[[SceneProgress], None]


def train_scene(
    networks: SceneNetworks,
    data: CaseData,
    stages: Sequence[SceneStageOptions],
    options: SceneTrainingOptions,
    folder: Path,
    on_step: OnStep | None = None,
    save_every: int = 100,
) -> None:
    """Train in place; a training that was stopped goes on from its folder and ends with the same weights.

    Args:
        networks: on the device to train on.
        data: cases.
        stages: in order.
        options: how.
        folder: keeps the state; made when missing.
        on_step: called after every step.
        save_every: steps between saved states.

    Raises:
        TrainingFailed: the loss is not finite, or the folder belongs to another training.
        OSError: the folder is full or cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identity = {"data": data.fingerprint, **asdict(options)}
    _check_identity(folder / "identity.json", identity)
    for stage in stages:
        finished = folder / f"{stage.stage}.safetensors"
        if finished.is_file():
            networks.load_state_dict(load_file(finished))
            continue
        if stage.stage is SceneStage.PREDICTOR and isinstance(networks.predictor, IndependentPredictor):
            networks.predictor.begin_at(networks.reference)
        run = _Run(networks, stage, options, folder)
        run.go(data, on_step, save_every)
        save_file({k: v.contiguous() for k, v in networks.state_dict().items()}, finished)
    networks.eval().requires_grad_(False)


def _check_identity(path: Path, identity: dict[str, object]) -> None:
    text = json.dumps(identity, sort_keys=True)
    if path.is_file() and path.read_text() != text:
        raise TrainingFailed(f"{path.parent} belongs to another training ({path.read_text()}); choose another folder.")
    path.write_text(text)


#: Steps in a row whose gradients may be useless.
_MOST_SKIPPED = 20


class _Run:
    """One stage in progress."""

    def __init__(
        self, networks: SceneNetworks, stage: SceneStageOptions, options: SceneTrainingOptions, folder: Path
    ) -> None:
        self.networks, self.stage, self.options = networks, stage, options
        self.state = folder / f"{stage.stage}.state.safetensors"
        self.trained: nn.Module = getattr(networks, str(stage.stage))
        networks.eval().requires_grad_(False)
        self.trained.requires_grad_(True)
        self.average = MovingAverage(self.trained, options.ema_rate)
        self.optimiser = torch.optim.AdamW(
            self.trained.parameters(),
            lr=stage.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=options.weight_decay,
            eps=1e-7,
        )
        self.step = self.skipped = 0

    def go(self, data: CaseData, on_step: OnStep | None, save_every: int) -> None:
        """Train to the end of the stage, and leave the smoothed weights."""
        self._restore()
        device = next(self.networks.parameters()).device
        began, waited, first = time.monotonic(), 0.0, self.step
        batches = data.batches(self.step, self.stage.steps, self.stage.batch)
        while self.step < self.stage.steps:
            before = time.monotonic()
            batch = Batch(*(part.to(device) for part in next(batches)))
            waited += time.monotonic() - before
            loss = self._advance(batch)
            spent = time.monotonic() - began
            if on_step is not None:
                rate = (self.step - first) * self.stage.batch / spent
                on_step(
                    SceneProgress(
                        self.stage.stage, self.step, self.stage.steps, loss, self._rate(), rate, waited / spent
                    )
                )
            if self.step % save_every == 0:
                self._save()
        self.average.copy_to(self.trained)
        self.state.unlink(missing_ok=True)

    def _rate(self) -> float:
        warm = min(1.0, (self.step + 1) / self.options.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.stage.steps)))
        return self.stage.learning_rate * warm * (0.02 + 0.98 * cosine)

    def _advance(self, batch: Batch) -> float:
        torch.manual_seed(hash((self.options.seed, list(SceneStage).index(self.stage.stage), self.step)) % 2**31)
        self.trained.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        self.optimiser.zero_grad(set_to_none=True)
        inputs = Inputs(batch.maps, batch.numbers, self.networks.bands)
        with torch.autocast(batch.maps.device.type, torch.bfloat16, enabled=self.options.bfloat16):
            loss = self._loss(inputs, batch)
        if not bool(loss.isfinite()):
            raise TrainingFailed(f"The loss of stage {self.stage.stage} is {float(loss)} at step {self.step}.")
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained.parameters(), self.options.clip_norm)
        self.step += 1
        if bool(norm.isfinite()):
            self.skipped = 0
            self.optimiser.step()
            self.average.update(self.trained)
        else:
            # Sums in bfloat16 overflow now and then; a step is left out, and the batch comes again in the next epoch.
            self.skipped += 1
            if self.skipped > _MOST_SKIPPED:
                raise TrainingFailed(
                    f"Gradients of stage {self.stage.stage} were not finite in {self.skipped} steps in a row, up to "
                    f"step {self.step}; train again with a lower learning rate."
                )
        return float(loss.detach())

    def _loss(self, inputs: Inputs, batch: Batch) -> Tensor:
        if self.stage.stage is SceneStage.REFERENCE:
            return likelihood(self.networks.reference(inputs), batch, self.options)
        if self.stage.stage is SceneStage.PREDICTOR:
            reference = None if self.networks.independent else self._reference(inputs)
            x_t, t = visited(self.networks, self.networks.origin(inputs, reference), self.options.t_start)
            return likelihood(self.networks.predicted(x_t, inputs, reference, t), batch, self.options)
        return self._allocation_loss(inputs, batch)

    @torch.no_grad()
    def _reference(self, inputs: Inputs) -> Belief:
        found = self.networks.reference(inputs)
        return Belief(found.mean.float(), found.log_variance.float())

    def _allocation_loss(self, inputs: Inputs, batch: Batch) -> Tensor:
        reference = self._reference(inputs)
        x_t, t = visited(self.networks, self.networks.origin(inputs, reference), self.options.t_start)
        signal, noise = self.networks.schedule.coefficients(t, x_t)
        with torch.no_grad():
            found = self.networks.predicted(x_t, inputs, reference, t)
            found = Belief(found.mean.float(), found.log_variance.float())
        # In bfloat16 this network's gradients are not finite on some processors; it is small.
        with torch.autocast(x_t.device.type, enabled=False):
            share = self.networks.allocation(x_t, inputs, reference, found, signal, noise)
        fused = share * reference.mean + (1 - share) * found.mean
        scale = reference.log_variance.exp().clamp_min(0.05)
        return _mean(robust(fused - batch.truth) / scale, batch, self.options.visible)

    def _save(self) -> None:
        tensors = {f"model.{k}": v.detach() for k, v in self.trained.named_parameters()}
        tensors |= {f"average.{k}": v for k, v in self.average.shadow.items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items()}
        partial = self.state.with_suffix(".partial")
        metadata = {"step": str(self.step), "updates": str(self.average.updates)}
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata=metadata)
        partial.replace(self.state)

    @torch.no_grad()
    def _restore(self) -> None:
        if not self.state.is_file():
            return
        with safe_open(self.state, framework="pt") as stream:
            about = stream.metadata()
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - no mapping
        self.step, self.average.updates = int(about["step"]), int(about["updates"])
        for name, parameter in self.trained.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
            self.average.shadow[name].copy_(tensors[f"average.{name}"])
        held = self.optimiser.state_dict()
        names = ("step", "exp_avg", "exp_avg_sq")
        count = sum(1 for _ in self.trained.parameters())
        held["state"] = {i: {n: tensors[f"optimiser.{i}.{n}"] for n in names} for i in range(count)}
        self.optimiser.load_state_dict(held)


#: Logits that are tried after the training: factors on W's own, and constants that are added.
_FACTORS, _ADDED = (0.0, 0.25, 0.5, 1.0, 2.0), (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.5)
#: Differences below are taken for none.
_TIE_DB = 0.01


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
