"""Small models trained within an ablation: the sample's pairs, the smallest preset, a few hundred steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.ablations.setting import Setting
from de_model.card import ModelCard
from de_model.data.pairs import PairData
from de_model.enhancer import Enhancer, WeightAllocation
from de_model.scene.networks import SceneAllocation
from de_model.training.course import Observer, Progress
from de_model.training.stages import Stage, StageOptions, TrainingOptions, schedule_for
from de_model.training.trainer import train
from de_model.weighting import WeightMode
from flows.models.training_pairs import mine_pairs
from flows.planning.search import SceneSet
from flows.progress import report_progress

#: Raw output that either way of limiting turns into eta.
_LOWEST = -1e4


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
    data: PairData,
    enhancer: Enhancer,
    stages: Sequence[StageOptions],
    setting: Setting,
    name: str,
    observers: Sequence[Observer] = (),
) -> Enhancer:
    """Train a model in place and return it; `name` is reported with the progress.

    Raises:
        TrainingFailed: the data hold no usable patch.
    """
    train(enhancer, data, stages, TrainingOptions(seed=setting.seed), observers=[_Teller(name), *observers])
    return enhancer


class _Teller(Observer):
    def __init__(self, name: str) -> None:
        self.name = name

    def on_step(self, progress: Progress) -> None:
        report_progress(f"{self.name}: {progress.stage}", progress.step, progress.steps)


class FloorAllocation(WeightAllocation):
    """Always gives the least W that eta allows, so that eta is W."""

    def __init__(self, origin: WeightAllocation) -> None:
        nn.Module.__init__(self)
        # The model asks its networks for their stride.
        self.net = origin.net

    def forward(self, x_t: Tensor, *_: object) -> Tensor:
        """Return W before it is limited, of the shape of `x_t`."""
        return torch.full_like(x_t, _LOWEST)


class _SceneFloor(SceneAllocation):
    """The same for a model of the second edition, whose W is limited by eta afterwards."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, x_t: Tensor, *_: object) -> Tensor:
        """Return W, of the shape of `x_t`."""
        return torch.zeros_like(x_t)


def without_allocation(enhancer: Enhancer) -> Enhancer:
    """Take the weight network out of a model, in place: W is eta everywhere; with eta = 0 the diffusion is alone."""
    if enhancer.scene is not None:
        enhancer.scene.allocation = _SceneFloor()
    else:
        enhancer.allocation = FloorAllocation(enhancer.allocation)
    return enhancer
