"""Champion and challenger restore the same hidden ground, and are compared block by block with what was there."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
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
    def time_ratio(self) -> float:
        """Time of the challenger over that of the champion."""
        return self.challenger.seconds / self.champion.seconds


def compare(
    champion: Path,
    challenger: Path,
    stacks: Iterable[Stack],
    targets: Sequence[date],
    truths: Sequence[date],
    sampling: Sampling,
) -> Contest:
    """Return how two weights files do without other dates: only what the model itself restores is compared.

    Args:
        champion: weights file.
        challenger: weights file of the same bands.
        stacks: all dates of some cells that neither model was trained on.
        targets: cloudy dates.
        truths: clear dates near them; the models never see them.
        sampling: how both restore.

    Raises:
        InvalidSettings: the models restore different bands, or the stacks have other dates.
        InvalidCheckpoint: a file is no model.
    """
    models = [checkpoint.load(path) for path in (champion, challenger)]
    if models[0].card.bands != models[1].card.bands:
        ours, theirs = (", ".join(model.card.bands) for model in models)
        raise InvalidSettings(f"The champion restores {ours}, the challenger {theirs}: they cannot be compared.")
    gains: list[BlockGain] = []
    seconds = np.zeros(2)
    for stack in stacks:
        for day in targets:
            target = index_on(stack, day)
            tell(f"{stack.cell.id} {day}: champion and challenger")
            images, took = _both(models, stack, target, sampling)
            seconds += took
            for truth_day in truths:
                gains += _gains(images, stack, target, index_on(stack, truth_day))
    contestants = [
        Contestant(checkpoint.sha256_of(path), path.stat().st_size, float(np.mean(psnr)) if psnr else 0.0, float(took))
        for path, psnr, took in zip(
            (champion, challenger), ([g.reference_psnr for g in gains], [g.psnr for g in gains]), seconds, strict=True
        )
    ]
    gain = difference_interval([g.psnr for g in gains], [g.reference_psnr for g in gains], Bootstrap())
    return Contest(contestants[0], contestants[1], gain)


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
