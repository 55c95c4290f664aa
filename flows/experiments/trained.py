"""Small models trained within an experiment: the sample's pairs, the smallest preset, a few hundred steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from de_model.card import ModelCard
from de_model.enhancer import Enhancer
from de_model.training.options import TrainingOptions
from de_model.training.sources import PairData, TrainingData
from de_model.training.stages import Stage, StageOptions, schedule_for
from de_model.training.trainer import Observer, Progress, train
from de_model.weighting import WeightMode
from flows.experiments.setting import Setting
from flows.models.training_pairs import mine_pairs
from flows.progress import tell
from flows.stacks import SceneSet


@lru_cache(maxsize=2)
def pair_data(scenes: SceneSet) -> tuple[PairData, float]:
    """Return the real pairs of some cells, and the ground sampling distance in metres; read once.

    Raises:
        InvalidSettings: the cells hold no pair.
    """
    pairs, gsd_m = mine_pairs(scenes)
    return PairData(pairs), gsd_m


def stage_of(setting: Setting, stage: Stage, **changes: int) -> StageOptions:
    """Return a stage of the preset with the setting's steps, and what else is changed."""
    (options,) = schedule_for(setting.preset, stages=(stage,))
    values: dict[str, Any] = {"steps": setting.steps, **changes}
    return replace(options, **values)


def untrained(setting: Setting, bands: tuple[str, ...], gsd_m: float) -> Enhancer:
    """Return a model with the random weights of the seed."""
    torch.manual_seed(setting.seed)
    card = ModelCard(setting.preset, bands, gsd_m, weight_mode=WeightMode.BOUNDED)
    return Enhancer(card).channels_last()


def train_on(
    data: TrainingData,
    enhancer: Enhancer,
    stages: Sequence[StageOptions],
    setting: Setting,
    name: str,
    observers: Sequence[Observer] = (),
) -> Enhancer:
    """Train a model in place and return it; `name` is told with the progress.

    Raises:
        TrainingFailed: the data hold no usable patch.
    """
    train(enhancer, data, stages, TrainingOptions(seed=setting.seed), observers=[_Teller(name), *observers])
    return enhancer


class _Teller(Observer):
    def __init__(self, name: str) -> None:
        self.name = name

    def on_step(self, progress: Progress) -> None:
        tell(f"{self.name}: {progress.stage}", progress.step, progress.steps)
