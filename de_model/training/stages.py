"""The stages of training, coarse to fine, how long each lasts, and options that hold for all of them.

The paper's iteration counts are unknown (DE section 3); these schedules are ours.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from enum import StrEnum, unique

from de_model.errors import InvalidModelInput
from de_model.presets import Preset


@unique
class Stage(StrEnum):
    """What is trained, in this order."""

    #: The reference network, which is frozen ever after.
    REFERENCE = "reference"
    #: Noise predictor alone, on imagery of a quarter of the resolution.
    COARSE = "coarse"
    #: Noise predictor alone at full resolution, before WA meets it.
    FINE = "fine"
    #: The weight network, with a locked noise predictor.
    ALLOCATION = "allocation"
    #: Noise predictor and the weight network.
    JOINT = "joint"


@dataclass(frozen=True, slots=True)
class StageOptions:
    """One stage: `steps` batches of `batch` patches of `patch` px, averaged down by `downscale`."""

    stage: Stage
    steps: int
    batch: int
    patch: int
    downscale: int
    learning_rate: float


_SCHEDULES: dict[Preset, tuple[StageOptions, ...]] = {
    Preset.PAPER: (
        StageOptions(Stage.REFERENCE, 100_000, 16, 256, 1, 2e-4),
        StageOptions(Stage.COARSE, 200_000, 64, 64, 4, 1e-4),
        StageOptions(Stage.FINE, 50_000, 16, 128, 1, 1e-4),
        StageOptions(Stage.ALLOCATION, 50_000, 16, 256, 1, 1e-4),
        StageOptions(Stage.JOINT, 50_000, 16, 256, 1, 1e-5),
    ),
    Preset.SMALL: (
        StageOptions(Stage.REFERENCE, 1_000, 8, 96, 1, 1e-3),
        StageOptions(Stage.COARSE, 300, 16, 64, 4, 1e-3),
        StageOptions(Stage.FINE, 1_000, 16, 64, 1, 1e-3),
        StageOptions(Stage.ALLOCATION, 300, 8, 64, 1, 1e-3),
        StageOptions(Stage.JOINT, 100, 4, 128, 1, 2e-4),
    ),
    Preset.TINY: (
        StageOptions(Stage.REFERENCE, 60, 8, 32, 1, 2e-3),
        StageOptions(Stage.COARSE, 30, 8, 32, 2, 2e-3),
        StageOptions(Stage.FINE, 60, 8, 32, 1, 2e-3),
        StageOptions(Stage.ALLOCATION, 40, 8, 32, 1, 2e-3),
        StageOptions(Stage.JOINT, 20, 8, 32, 1, 5e-4),
    ),
}


def schedule_for(
    preset: Preset, effort: float = 1.0, stages: Collection[Stage] = tuple(Stage)
) -> tuple[StageOptions, ...]:
    """Return the stages of a preset in their order, their steps scaled by `effort` (at least one step each)."""
    chosen = [s for s in _SCHEDULES[preset] if s.stage in stages]
    return tuple(replace(s, steps=max(1, round(s.steps * effort))) for s in chosen)


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
    decay: Decay = Decay.COSINE
    #: Gradients longer than this are shortened: early diffusion steps spike.
    clip_norm: float = 1.0
    #: Pieces a batch is worked through in, to save memory; the result is the same up to rounding.
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise InvalidModelInput(f"accumulate is {self.accumulate}; it must be 1 or more.")
        if not 0 <= self.ema_rate < 1:
            raise InvalidModelInput(f"ema_rate is {self.ema_rate}; it must lie in 0..1, 1 excluded.")
        if self.clip_norm <= 0:
            raise InvalidModelInput(f"clip_norm is {self.clip_norm}; it must be above 0.")

    def identity(self) -> dict[str, str]:
        """Return by name what changes the weights beyond rounding; a resumed training must agree in it."""
        return {f.name: str(getattr(self, f.name)) for f in fields(self) if f.name != "accumulate"}
