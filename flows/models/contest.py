"""Champion and challenger restore the same hidden ground, and are compared block by block with what was there."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from de_model import checkpoint
from de_model.enhancer import Enhancer
from de_model.inference.engine import Sampling, restore
from de_model.metrics.bootstrap import Bootstrap, Interval, difference_interval
from flows.errors import InvalidSettings
from flows.models.block_gains import BlockGain, block_gains
from flows.models.evaluation import index_on
from flows.models.training_pairs import cloudy_and_clear
from flows.progress import tell
from stac.masks.classes import is_obscured, is_observed
from stac.stack import Stack


@dataclass(frozen=True, slots=True)
class Contestant:
    """One model and how it did."""

    sha256: str
    size_bytes: int
    #: Mean over blocks, dB.
    psnr: float
    #: Restoring all scenes of the contest.
    seconds: float


@dataclass(frozen=True, slots=True)
class Contest:
    """Two models on the same blocks."""

    champion: Contestant
    challenger: Contestant
    #: PSNR of the challenger above that of the champion over the same blocks, dB; paired bootstrap, 95 %.
    gain: Interval

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        gain = self.gain
        return f"PSNR {gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}) dB over {gain.images} blocks"

    @property
    def time_ratio(self) -> float:
        """Time of the challenger over that of the champion."""
        return self.challenger.seconds / self.champion.seconds


@dataclass(frozen=True, slots=True)
class Case:
    """A cloudy date, and the clear dates near it that say what is hidden."""

    stack: Stack
    #: Index of the cloudy date, and of the clear ones; the models never see these.
    target: int
    truths: tuple[int, ...]


def cases_on(stacks: Iterable[Stack], targets: Sequence[date], truths: Sequence[date]) -> Iterator[Case]:
    """Yield the cases of given days.

    Raises:
        InvalidSettings: a stack has no such day.
    """
    for stack in stacks:
        for day in targets:
            yield Case(stack, index_on(stack, day), tuple(index_on(stack, truth) for truth in truths))


def cases_found(stacks: Iterable[Stack]) -> Iterator[Case]:
    """Yield a case for every cloudy date of the stacks that has clear ones beside it."""
    for stack in stacks:
        cloudy, clear = cloudy_and_clear(stack)
        if clear:
            yield from (Case(stack, target, tuple(clear)) for target in cloudy)


def compare(champion: Path, challenger: Path, cases: Iterable[Case], sampling: Sampling) -> Contest:
    """Return how two weights files do without other dates: only what the model itself restores is compared.

    Args:
        champion: weights file.
        challenger: weights file of the same bands.
        cases: ground that neither model was trained on.
        sampling: how both restore.

    Raises:
        InvalidSettings: the models restore different bands.
        InvalidCheckpoint: a file is no model.
    """
    files = (champion, challenger)
    models = [checkpoint.load(path) for path in files]
    if models[0].card.bands != models[1].card.bands:
        ours, theirs = (", ".join(model.card.bands) for model in models)
        raise InvalidSettings(f"The champion restores {ours}, the challenger {theirs}: they cannot be compared.")
    gains: list[BlockGain] = []
    seconds = np.zeros(2)
    for case in cases:
        tell(f"{case.stack.item_ids[case.target]}: champion and challenger")
        images, took = _both(models, case.stack, case.target, sampling)
        seconds += took
        for truth in case.truths:
            gains += _gains(images, case.stack, case.target, truth)
    before, after = [g.reference_psnr for g in gains], [g.psnr for g in gains]
    old, new = _contestant(champion, before, seconds[0]), _contestant(challenger, after, seconds[1])
    return Contest(old, new, difference_interval(after, before, Bootstrap()))


def _contestant(path: Path, psnr: Sequence[float], seconds: float) -> Contestant:
    mean = float(np.mean(psnr)) if len(psnr) else 0.0
    return Contestant(checkpoint.sha256_of(path), path.stat().st_size, mean, float(seconds))


def _both(
    models: Sequence[Enhancer], stack: Stack, target: int, sampling: Sampling
) -> tuple[list[NDArray[np.float32]], NDArray[np.float64]]:
    """Return what each model makes of the target `(band, y, x)`, and the seconds each took."""
    scene, needed = stack.reflectance(target), is_obscured(stack.classes[target])
    images, seconds = [], []
    for model in models:
        began = time.monotonic()
        images.append(restore(model, scene, needed, sampling, origin=stack.cell.origin).image)
        seconds.append(time.monotonic() - began)
    return images, np.array(seconds)


def _gains(images: Sequence[NDArray[np.float32]], stack: Stack, target: int, truth: int) -> list[BlockGain]:
    seen = is_observed(stack.classes[truth])
    where = is_obscured(stack.classes[target]) & seen
    for image in images:
        where &= np.isfinite(image).all(axis=0)
    champion, challenger = images
    return list(block_gains(challenger, champion, stack.reflectance(truth), where, seen, stack.bands))
