"""Where the patches of a training come from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional as F

from de_model.data.pairs import PairSource, Patches, PatchSampler, ScenePair, fingerprint
from de_model.errors import InvalidModelInput, TrainingFailed
from de_model.training.stages import StageOptions


class PatchSource(Protocol):
    """Gives the patches of a step; they depend on the source and the step alone."""

    def batch(self, step: int, count: int) -> Patches:
        """Return `count` patches for training step `step`."""
        ...


class TrainingData(Protocol):
    """Everything a training may look at."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all of it."""
        ...

    @property
    def bands(self) -> int:
        """Number of bands of the images."""
        ...

    def source(self, stage: StageOptions, seed: int) -> PatchSource:
        """Return the source for one stage; raises `TrainingFailed` when it cannot be served."""
        ...


class PairData:
    """Patches cut at random from cloudy/clear pairs of scenes."""

    def __init__(self, pairs: Sequence[ScenePair]) -> None:
        """Check and keep the pairs.

        Raises:
            TrainingFailed: there is no pair.
            InvalidModelInput: a pair's shapes differ, or it is not finite where it says it is valid.
        """
        if not pairs:
            raise TrainingFailed("No cloudy/clear pair was given; search a longer interval or another area.")
        for pair in pairs:
            _check(pair, len(pairs[0].clear))
        self.pairs = tuple(pairs)
        self.fingerprint = fingerprint(self.pairs)
        self.bands = len(self.pairs[0].clear)

    def source(self, stage: StageOptions, seed: int) -> PatchSource:
        """Return a sampler of patches of the stage's size."""
        return PatchSampler(self.pairs, stage.patch, stage.downscale, seed)


def _check(pair: ScenePair, bands: int) -> None:
    wanted = (bands, *pair.valid.shape)
    if pair.cloudy.shape != wanted or pair.clear.shape != wanted or pair.obscured.shape != wanted[1:]:
        raise InvalidModelInput(
            f"Pair {pair.name}: cloudy {pair.cloudy.shape}, clear {pair.clear.shape}, masks {pair.valid.shape} and "
            f"{pair.obscured.shape}; every image must be {wanted}."
        )
    for name, image in (("cloudy", pair.cloudy), ("clear", pair.clear)):
        bad = int((~np.isfinite(image[:, pair.valid])).any(axis=0).sum())
        if bad:
            raise InvalidModelInput(
                f"Pair {pair.name}: the {name} image is not finite on {bad} pixels that are marked valid; mask them."
            )


class DrawnData:
    """Patches cut at random from pairs that are read when they are drawn from."""

    def __init__(self, pairs: Sequence[PairSource]) -> None:
        """Keep the pairs; their content is read once for the fingerprint.

        Raises:
            TrainingFailed: there is no pair, or their numbers of bands differ.
            InvalidData: a file is not what the data set promises.
        """
        if not pairs:
            raise TrainingFailed("No pair was given; check the folder.")
        bands = {pair.channels for pair in pairs}
        if len(bands) > 1:
            raise TrainingFailed(f"Pairs with {sorted(bands)} bands cannot be trained on together; choose the bands.")
        self.pairs = pairs
        self.bands = bands.pop()
        self.fingerprint = fingerprint(pairs)

    def source(self, stage: StageOptions, seed: int) -> PatchSource:
        """Return a sampler of patches of the stage's size; raises `TrainingFailed` when a pair is smaller than one."""
        return PatchSampler(self.pairs, stage.patch, stage.downscale, seed)


@dataclass(frozen=True, slots=True)
class FixedPatches:
    """A flat list of patches; each step takes some of them, in an order that depends on seed and step."""

    patches: Patches
    seed: int = 0

    def __post_init__(self) -> None:
        if not len(self.patches.clear):
            raise TrainingFailed("The list of patches is empty.")
        if not all(bool(torch.isfinite(getattr(self.patches, f.name)).all()) for f in fields(Patches)):
            raise InvalidModelInput("A patch is not finite; fill nodata and mark it as not valid.")

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all patches."""
        digest = hashlib.sha256()
        for field in fields(Patches):
            digest.update(getattr(self.patches, field.name).contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def bands(self) -> int:
        """Number of bands of the patches."""
        return int(self.patches.clear.shape[1])

    def source(self, stage: StageOptions, seed: int) -> FixedPatches:
        """Return the list, area-averaged by the stage's factor.

        Raises:
            TrainingFailed: the patches have another size than the stage wants.
        """
        side, wanted = self.patches.clear.shape[-1], stage.patch * stage.downscale
        if side != wanted:
            raise TrainingFailed(f"Stage {stage.stage} needs patches of {wanted} px, the list has {side} px.")
        return replace(self, patches=_averaged(self.patches, stage.downscale), seed=seed)

    def batch(self, step: int, count: int) -> Patches:
        """Return `count` patches; none comes twice before all have come."""
        random, number = np.random.default_rng([self.seed, step]), len(self.patches.clear)
        rounds = [random.permutation(number) for _ in range(-(-count // number))]
        return select(self.patches, torch.from_numpy(np.concatenate(rounds)[:count]))


def select(patches: Patches, which: torch.Tensor | slice) -> Patches:
    """Return some of the patches."""
    return Patches(*(getattr(patches, field.name)[which] for field in fields(Patches)))


def _averaged(patches: Patches, factor: int) -> Patches:
    if factor == 1:
        return patches
    cloudy, clear, valid, obscured = (F.avg_pool2d(getattr(patches, f.name), factor) for f in fields(Patches))
    return Patches(cloudy, clear, (valid == 1).float(), obscured)
