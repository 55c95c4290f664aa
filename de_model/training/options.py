"""Options of training that hold for all stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum, unique

import torch
from torch import Tensor

from de_model.errors import InvalidModelInput

#: Makes a reference worse than it is on its training data, as it will be on unseen data: `(reference, cloudy, random)`,
#: images `(1, band, y, x)` companded to [0, 1], returns the worse reference. Its `repr` is part of a training's
#: identity, so a frozen dataclass with `__call__` is the form to give it.
Degrade = Callable[[Tensor, Tensor, torch.Generator], Tensor]


@unique
class Precision(StrEnum):
    """Number format of the networks' activations; weights, losses and the optimiser stay float32."""

    FP32 = "fp32"
    BF16 = "bf16"


@unique
class GradientFlow(StrEnum):
    """What the fusion loss L_W may change."""

    #: As published: L_W trains the weight network only (DE section 1.7).
    SEPARATED = "separated"
    #: L_W reaches the noise predictor too, through its estimate of the clear image.
    COUPLED = "coupled"


@unique
class States(StrEnum):
    """On which states the weight network is trained."""

    #: As published: noised truth (DE section 1.7).
    FORWARD = "forward"
    #: What the sampler visits from pure noise (`de_model/training/rollout.py`).
    ROLLOUT = "rollout"


@unique
class Decay(StrEnum):
    """How the learning rate changes within a stage."""

    #: A short rise, then half a cosine down to zero.
    COSINE = "cosine"
    #: As published: constant (DE section 3).
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How to train; what to train for how long is said by the stages."""

    #: Of patches, noise and timesteps; initial weights are the caller's.
    seed: int = 0
    #: Rate of the moving average of the weights (DE section 2.3).
    ema_rate: float = 0.9999
    gradient_flow: GradientFlow = GradientFlow.SEPARATED
    states: States = States.FORWARD
    decay: Decay = Decay.COSINE
    #: Gradients longer than this are shortened: early diffusion steps spike.
    clip_norm: float = 1.0
    precision: Precision = Precision.FP32
    degrade: Degrade | None = None
    #: Pieces a batch is worked through in, to save memory; the result is the same up to rounding.
    accumulate: int = 1
    #: Steps in a row whose gradient may be non-finite (they are skipped) before training is given up.
    max_skipped: int = 20

    def __post_init__(self) -> None:
        if self.accumulate < 1 or self.max_skipped < 1:
            raise InvalidModelInput(f"accumulate={self.accumulate}, max_skipped={self.max_skipped}: both start at 1.")
        if not 0 <= self.ema_rate < 1:
            raise InvalidModelInput(f"ema_rate is {self.ema_rate}; it must lie in 0..1, 1 excluded.")
        if self.states is States.ROLLOUT and self.gradient_flow is GradientFlow.COUPLED:
            raise InvalidModelInput(
                "Sampling carries no gradient to the noise predictor: rollout needs separated flow."
            )
        if self.clip_norm <= 0:
            raise InvalidModelInput(f"clip_norm is {self.clip_norm}; it must be above 0.")

    def identity(self) -> dict[str, str]:
        """Return by name what changes the weights beyond rounding; a resumed training must agree in it."""
        rounding = {"accumulate", "max_skipped"}
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in rounding}
        return {name: repr(value) if name == "degrade" else str(value) for name, value in values.items()}
