"""The stages of training, coarse to fine, and how long each lasts.

The paper's iteration counts are unknown (DE section 3); these schedules are ours.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum, unique

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
