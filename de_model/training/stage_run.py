"""One stage in progress, of either edition: its networks, optimiser, average, step, and a fixed batch to look at."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from de_model.data.pairs import PairData, Patches
from de_model.enhancer import Enhancer, Estimate
from de_model.errors import InvalidModelInput, TrainingFailed
from de_model.inference.running import is_out_of_memory
from de_model.radiometry import from_unit, to_signed, to_unsigned
from de_model.samplers import Trajectory, ddim
from de_model.training.objective import Batch, Objective, draw
from de_model.training.stages import Stage, StageOptions

#: The draw that gives the validation batch: no training step has this number.
_DRAW = 9_999_999
#: Brightness of the PNG: companded values above this are white (reflectance 0.64, thin cloud).
_WHITE = 0.8
_GAP = 2
#: Steps in a row whose gradient may be non-finite (they are skipped) before training is given up.
_MOST_SKIPPED = 20
Share = TypeVar("Share")


@dataclass(frozen=True, slots=True)
class Validation:
    """What is looked at, and how often."""

    #: Pairs of places that are not trained on.
    data: PairData
    #: Steps between validations; there is always one at the end of a stage.
    every: int = 250
    #: Patches, the same ones every time.
    patches: int = 4
    #: DDIM evaluations.
    sampling_steps: int = 10

    def __post_init__(self) -> None:
        if self.every < 1 or self.patches < 1:
            raise InvalidModelInput(f"every={self.every} and patches={self.patches} must both be at least 1.")


@dataclass(frozen=True, slots=True)
class Restored:
    """A batch as a stage restores it."""

    patches: Patches
    #: `(batch, band, y, x)` companded to [0, 1]. Stage reference: the reference. Coarse and fine: diffusion alone.
    #: Later: the reference, and all of DE.
    parts: tuple[Tensor, ...]

    @property
    def image(self) -> Tensor:
        """What the stage is about."""
        return self.parts[-1]


def fixed_batch(data: PairData, stage: StageOptions, patches: int, timesteps: int) -> Batch:
    """Return patches of a stage's size with noise and timesteps, the same ones every time."""
    fixed = replace(stage, batch=patches)
    return draw(data.source(fixed, 0), fixed, _DRAW, 0, timesteps)


@torch.no_grad()
def validate(objective: Objective, batch: Batch, sampling_steps: int) -> dict[str, float]:
    """Return the scores of a stage on a batch; its model and its loss are the objective's.

    The scores are the loss terms, `psnr` (dB, reflectance, peak 1, all pixels with truth), and `psnr_hidden` (the
    same under cloud and shadow; left out where the batch has none).
    """
    enhancer = objective.enhancer
    batch = batch.to(next(enhancer.parameters()).device)
    terms = objective(batch)
    found = restored(enhancer, objective.stage, batch, sampling_steps)
    valid = batch.patches.valid > 0
    scores = {name: float(value) for name, value in terms.items()}
    scores["psnr"] = psnr(found.image, batch.patches.clear, valid)
    hidden = valid & (batch.patches.obscured > 0)
    if bool(hidden.any()):
        scores["psnr_hidden"] = psnr(found.image, batch.patches.clear, hidden)
    return scores


@torch.no_grad()
def restored(enhancer: Enhancer, stage: Stage, batch: Batch, steps: int = 10) -> Restored:
    """Return what a stage makes of a batch on the model's device, in `steps` DDIM evaluations."""
    batch = batch.to(next(enhancer.parameters()).device)
    patches, trajectory = batch.patches, Trajectory(enhancer.schedule, steps, lambda _stream, _scale: batch.eps)
    if stage is Stage.REFERENCE:
        return Restored(patches, (enhancer.reference.estimate(patches.cloudy),))
    if stage in (Stage.COARSE, Stage.FINE):
        cloudy = to_signed(patches.cloudy)

        def alone(x_t: Tensor, t: Tensor) -> Estimate:
            """Return the estimate with W = 0: the model before the weight network exists."""
            x0_hat = enhancer.schedule.estimate_x0(x_t, enhancer.predictor(x_t, cloudy, t), t)
            return Estimate(x0_hat, torch.zeros_like(x0_hat), x0_hat)

        return Restored(patches, (to_unsigned(ddim(alone, trajectory).image),))
    condition = enhancer.condition(patches.cloudy)
    eta = enhancer.card.eta
    found = ddim(lambda x_t, t: enhancer.estimate(x_t, condition, t, eta), trajectory)
    return Restored(patches, (to_unsigned(condition.reference), to_unsigned(found.image)))


def psnr(image: Tensor, truth: Tensor, where: Tensor) -> float:
    """Return the PSNR in dB of companded images `(batch, band, y, x)`, taken in reflectance for a peak of 1.

    Args:
        image: companded to [0, 1].
        truth: companded to [0, 1].
        where: `(batch, 1, y, x)`, True on the pixels that count, at least one.
    """
    error = (from_unit(image.float()) - from_unit(truth.float())).double()
    mse = float(error.square().movedim(1, -1)[where[:, 0]].mean())
    return math.inf if mse == 0 else -10 * math.log10(mse)


def sample_grid(found: Restored, bands: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return a picture `(y, x, 3)`: a row a patch; its columns are cloudy, the parts (reference, DE), and truth."""
    shown = [_picture(column, bands) for column in (found.patches.cloudy, *found.parts, found.patches.clear)]
    rows = [np.concatenate([_framed(column[i]) for column in shown], axis=1) for i in range(len(shown[0]))]
    return np.concatenate(rows, axis=0)


def _picture(images: Tensor, bands: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return `(batch, y, x, 3)` in true colour where the bands allow it, else the first band in grey."""
    wanted = ("red", "green", "blue")
    order = [bands.index(b) for b in wanted] if set(wanted) <= set(bands) else [0, 0, 0]
    shown = (images[:, order].float().cpu() / _WHITE).clamp(0, 1) * 255
    return shown.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _framed(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.pad(picture, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255)


class RunOptions(Protocol):
    """What holds for all stages, whatever they train on."""

    @property
    def seed(self) -> int:
        """Of dropout, and of what a loss draws itself."""

    @property
    def ema_rate(self) -> float:
        """Rate of the moving average of the weights (DE section 2.3)."""

    @property
    def clip_norm(self) -> float:
        """Gradients longer than this are shortened: early diffusion steps spike."""


@dataclass(frozen=True, slots=True)
class Lesson(Generic[Share]):
    """What one stage trains, on what, and what it minimises."""

    stage: StageOptions
    #: Networks that are trained; the rest of the model is frozen.
    trained: nn.Module
    optimiser: torch.optim.Optimizer
    #: Factor on the learning rate of a step.
    decay: Callable[[int], float]
    #: Yields the batches from a step on, always the same; each in shares whose losses add up, to save memory.
    batches: Callable[[int], Iterator[Sequence[Share]]]
    #: Terms of the loss of a share by name; their sum is minimised.
    loss: Callable[[Share], dict[str, Tensor]]
    #: Called before anything is trained.
    prepare: Callable[[], None] = lambda: None
    #: Scores of the smoothed weights on data that are not trained on, every so many steps and at the end.
    score: Callable[[], dict[str, float]] | None = None
    score_every: int = 1
    #: What the stage makes of some images, at its end.
    show: Callable[[], Restored] | None = None


class MovingAverage:
    """Keeps a smoothed copy of a module's parameters.

    The rate rises from 0 to `rate` as `(1 + n) / (10 + n)`, so that short trainings are not held back by
    their random start; after some thousand steps it is the paper's constant rate.
    """

    def __init__(self, module: nn.Module, rate: float = 0.9999) -> None:
        self.rate, self.updates = rate, 0
        self.shadow: dict[str, Tensor] = {n: p.detach().clone() for n, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the copy towards the module's present weights."""
        rate = min(self.rate, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, parameter in module.named_parameters():
            self.shadow[name].lerp_(parameter.detach(), 1 - rate)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Put the smoothed weights into the module."""
        for name, parameter in module.named_parameters():
            parameter.copy_(self.shadow[name])

    @contextlib.contextmanager
    def applied_to(self, module: nn.Module) -> Iterator[None]:
        """Use the smoothed weights while the context is open, then put the raw ones back bit by bit."""
        raw = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        self.copy_to(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in module.named_parameters():
                    parameter.copy_(raw[name])


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything a stage needs to go on from a step."""

    stage: Stage
    #: Steps done.
    step: int
    #: Steps skipped so far, and those of them at the very end.
    skipped: int
    skipped_in_row: int
    #: Updates of the moving average.
    updates: int
    #: `model.*`, `average.*` and `optimiser.*`.
    tensors: dict[str, Tensor]


class StageRun(Generic[Share]):
    """Trains the networks of one stage, step by step."""

    def __init__(self, enhancer: Enhancer, lesson: Lesson[Share], options: RunOptions, position: int = 0) -> None:
        """Begin a stage.

        Args:
            enhancer: the model.
            lesson: the stage.
            options: of all stages.
            position: of the stage among those that are trained; equal stages draw other numbers.
        """
        lesson.prepare()
        self.enhancer, self.lesson, self.stage = enhancer, lesson, lesson.stage
        self.options, self.position = options, position
        enhancer.eval().requires_grad_(False)
        self.trained = lesson.trained.requires_grad_(True).train()
        self.average = MovingAverage(self.trained, options.ema_rate)
        self.step = self.skipped = self.skipped_in_row = 0
        #: Learning rate of the last step.
        self.used_learning_rate = 0.0

    def advance(self, shares: Sequence[Share]) -> dict[str, float]:
        """Do one step on a batch; return the loss terms.

        Raises:
            TrainingFailed: too many gradients in a row were not finite, or memory is too small.
        """
        torch.manual_seed(hash((self.options.seed, self.position, self.step)) % 2**31)
        self.used_learning_rate = self.learning_rate
        for group in self.lesson.optimiser.param_groups:
            group["lr"] = self.used_learning_rate
        self.lesson.optimiser.zero_grad(set_to_none=True)
        with memory_explained(self.stage, len(shares)):
            terms = self._backward(shares)
        norm = nn.utils.clip_grad_norm_(self.trained.parameters(), self.options.clip_norm)
        self.step += 1
        if bool(torch.isfinite(norm)) and all(math.isfinite(value) for value in terms.values()):
            self.lesson.optimiser.step()
            self.average.update(self.trained)
            self.skipped_in_row = 0
        else:
            self._skip()
        return terms

    def _backward(self, shares: Sequence[Share]) -> dict[str, float]:
        """Leave the gradient of the whole batch in the parameters and return the loss terms."""
        names: list[str] = []
        values: list[Tensor] = []
        for share in shares:
            terms = self.lesson.loss(share)
            names, found = list(terms), torch.stack(list(terms.values()))
            found.sum().backward()
            values.append(found.detach())
        return dict(zip(names, torch.stack(values).sum(dim=0).tolist(), strict=True))

    def _skip(self) -> None:
        self.skipped, self.skipped_in_row = self.skipped + 1, self.skipped_in_row + 1
        if self.skipped_in_row >= min(_MOST_SKIPPED, self.stage.steps):
            raise TrainingFailed(
                f"Stage {self.stage.stage}: {self.skipped_in_row} gradients in a row up to step {self.step} were not "
                "finite; lower the learning rate."
            )

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.stage.learning_rate * self.lesson.decay(self.step)

    def finish(self) -> None:
        """Put the smoothed weights into the model."""
        self.average.copy_to(self.trained)
        self.enhancer.requires_grad_(False).eval()

    def snapshot(self) -> Snapshot:
        """Return the present state; its tensors are the live ones."""
        tensors = {f"model.{name}": value for name, value in self.enhancer.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.shadow.items()}
        for name, parameter in self.trained.named_parameters():
            moments = self.lesson.optimiser.state.get(parameter, {})
            tensors |= {f"optimiser.{name}.{key}": value for key, value in moments.items()}
        return Snapshot(self.stage.stage, self.step, self.skipped, self.skipped_in_row, self.average.updates, tensors)

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot of the same stage."""
        tensors = snapshot.tensors
        # Copying into the present tensors keeps their memory layout, and with it every later bit.
        for name, value in self.enhancer.state_dict().items():
            value.copy_(tensors[f"model.{name}"])
        for name, value in self.average.shadow.items():
            value.copy_(tensors[f"average.{name}"])
        for name, parameter in self.trained.named_parameters():
            self._restore_moments(name, parameter, tensors)
        self.average.updates, self.step = snapshot.updates, snapshot.step
        self.skipped, self.skipped_in_row = snapshot.skipped, snapshot.skipped_in_row

    def _restore_moments(self, name: str, parameter: nn.Parameter, tensors: dict[str, Tensor]) -> None:
        key = f"optimiser.{name}"
        if f"{key}.step" not in tensors:
            return
        self.lesson.optimiser.state[parameter] = {
            "step": tensors[f"{key}.step"].clone(),
            **{m: torch.zeros_like(parameter).copy_(tensors[f"{key}.{m}"]) for m in ("exp_avg", "exp_avg_sq")},
        }


@contextlib.contextmanager
def memory_explained(stage: StageOptions, shares: int) -> Iterator[None]:
    """Turn a failed request for memory into `TrainingFailed` with what to do."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        raise TrainingFailed(
            f"Out of memory in stage {stage.stage} with {stage.batch} patches of {stage.patch} px; halve --batch (to "
            f"{max(1, stage.batch // 2)}), or, on pairs, use --accumulate {2 * shares}: the same weights, less memory."
        ) from error
