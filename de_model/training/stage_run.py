"""One stage in progress, of either edition: its networks, optimiser, moving average of the weights, and step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from de_model.enhancer import Enhancer
from de_model.errors import TrainingFailed
from de_model.inference.running import is_out_of_memory
from de_model.training.stages import Stage, StageOptions
from de_model.training.validation import Restored

#: Steps in a row whose gradient may be non-finite (they are skipped) before training is given up.
_MOST_SKIPPED = 20

Share = TypeVar("Share")


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
