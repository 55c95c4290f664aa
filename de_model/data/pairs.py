"""Cloudy/clear pairs, wherever they come from, and the patches a training step sees."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from de_model.errors import InvalidModelInput, TrainingFailed
from de_model.radiometry import to_unit
from de_model.training.stages import StageOptions

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: A patch is used when this share of it has truth.
_MIN_VALID = 0.85
#: A patch of a real pair is used when clouds cover neither nothing nor all of it.
_REAL_COVER = (0.05, 0.98)
#: Draws per patch before the pairs are declared unusable.
_MAX_DRAWS = 200


class PairSource(Protocol):
    """What patches can be drawn from: a pair in memory or on disk."""

    @property
    def name(self) -> str:
        """What the pair is, for people."""

    @property
    def channels(self) -> int:
        """Number of bands."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    @property
    def cover_range(self) -> tuple[float, float]:
        """Least and greatest share of cloud at which a patch is worth training on."""

    def window(self, rows: slice, columns: slice) -> ScenePair:
        """Return a part of the pair."""

    def content(self) -> Iterator[bytes]:
        """Yield everything that decides what `window` returns, for fingerprints."""


@dataclass(frozen=True, slots=True)
class ScenePair:
    """The same ground twice: hidden by clouds on one date, seen on another."""

    #: What the pair is, for people: the two item ids.
    name: str
    #: Surface reflectance `(band, y, x)` of the cloudy date, NaN at nodata.
    cloudy: FloatArray
    #: Surface reflectance `(band, y, x)` of the clear date, matched to the cloudy date's radiometry.
    clear: FloatArray
    #: `(y, x)`, True where both dates have data and the clear date saw the ground.
    valid: BoolArray
    #: `(y, x)`, True where cloud or shadow hides the ground on the cloudy date.
    obscured: BoolArray

    @property
    def channels(self) -> int:
        """Number of bands."""
        return len(self.cloudy)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.valid.shape
        return rows, columns

    @property
    def cover_range(self) -> tuple[float, float]:
        """Least and greatest share of cloud of a patch: without any there is nothing to learn, under all no context."""
        return _REAL_COVER

    def window(self, rows: slice, columns: slice) -> ScenePair:
        """Return a part of the pair, as views."""
        where = (..., rows, columns)
        return ScenePair(self.name, self.cloudy[where], self.clear[where], self.valid[where], self.obscured[where])

    def content(self) -> Iterator[bytes]:
        """Yield the pixels."""
        for array in (self.cloudy, self.clear, self.valid, self.obscured):
            yield np.ascontiguousarray(array).tobytes()


@dataclass(frozen=True, slots=True)
class Patches:
    """A batch `(batch, band, y, x)` companded to [0, 1]; the masks are `(batch, 1, y, x)`, 0 or 1."""

    cloudy: Tensor
    clear: Tensor
    valid: Tensor
    obscured: Tensor

    def part(self, which: slice) -> Patches:
        """Return some of the patches."""
        return Patches(*(each[which] for each in (self.cloudy, self.clear, self.valid, self.obscured)))


class PairData:
    """Everything a training may look at: pairs that patches are cut from at random."""

    def __init__(self, pairs: Sequence[PairSource]) -> None:
        """Check and keep the pairs; their content is read once for the fingerprint.

        Raises:
            TrainingFailed: there is no pair, or their numbers of bands differ.
            InvalidModelInput: a pair's shapes differ, or it is not finite where it says it is valid.
            InvalidData: a file is not what its data set promises.
        """
        if not pairs:
            raise TrainingFailed("No cloudy/clear pair was given; search a longer interval or another area.")
        bands = sorted({pair.channels for pair in pairs})
        if len(bands) > 1:
            raise TrainingFailed(f"Pairs with {bands} bands cannot be trained on together; choose the same bands.")
        digest = hashlib.sha256()
        for pair in pairs:
            if isinstance(pair, ScenePair):
                _check(pair)
            digest.update(pair.name.encode())
            for part in pair.content():
                digest.update(part)
        self.pairs = tuple(pairs)
        #: Number of bands of the images.
        self.bands = bands[0]
        #: SHA-256 over names and content of all pairs.
        self.fingerprint = digest.hexdigest()

    def source(self, stage: StageOptions, seed: int) -> PatchSampler:
        """Return a sampler of patches of the stage's size; raises `TrainingFailed` when a pair is smaller than one."""
        return PatchSampler(self.pairs, stage.patch, stage.downscale, seed)


def _check(pair: ScenePair) -> None:
    wanted = (pair.channels, *pair.valid.shape)
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


class PatchSampler:
    """Draws patches; the draw depends on (seed, step) alone, so a resumed training sees the same data."""

    def __init__(self, pairs: Sequence[PairSource], size: int, downscale: int = 1, seed: int = 0) -> None:
        """Prepare to draw patches of `size` px, area-averaged from `size * downscale` px of the pairs.

        Raises:
            TrainingFailed: a pair is smaller than a patch.
        """
        self.pairs, self.size, self.downscale, self.seed = list(pairs), size, downscale, seed
        self.extent = size * downscale
        smallest = min(self.pairs, key=lambda pair: min(pair.shape))
        if min(smallest.shape) < self.extent:
            raise TrainingFailed(
                f"Patches need {self.extent} px, the smallest pair ({smallest.name}) has {min(smallest.shape)} px; "
                "leave it out, or take a larger area of it."
            )

    def batch(self, step: int, count: int) -> Patches:
        """Return `count` patches for training step `step`.

        Raises:
            TrainingFailed: no patch with enough truth and cloud was found.
        """
        random = np.random.default_rng([self.seed, step])
        cuts = [self._cut(random) for _ in range(count)]
        cloudy, clear, valid, obscured = (torch.from_numpy(np.stack(parts)) for parts in zip(*cuts, strict=True))
        return self._shrink(cloudy, clear, valid[:, None].float(), obscured[:, None].float())

    def _cut(self, random: np.random.Generator) -> tuple[FloatArray, FloatArray, BoolArray, BoolArray]:
        for _ in range(_MAX_DRAWS):
            pair = self.pairs[random.integers(len(self.pairs))]
            row, column = (int(random.integers(n - self.extent + 1)) for n in pair.shape)
            part = pair.window(slice(row, row + self.extent), slice(column, column + self.extent))
            least, most = pair.cover_range
            covered = (part.obscured & part.valid).mean()
            if part.valid.mean() >= _MIN_VALID and least <= covered <= most:
                turn, mirror = int(random.integers(4)), bool(random.integers(2))
                views = (part.cloudy, part.clear, part.valid, part.obscured)
                return tuple(_dihedral(view, turn, mirror) for view in views)  # type: ignore[return-value] # four in, four out
        raise TrainingFailed(
            f"No usable patch of {self.extent} px in {_MAX_DRAWS} draws; the pairs hold too "
            "little cloud over known ground."
        )

    def _shrink(self, cloudy: Tensor, clear: Tensor, valid: Tensor, obscured: Tensor) -> Patches:
        cloudy, clear = (torch.nan_to_num(image) for image in (cloudy, clear))
        if self.downscale > 1:
            cloudy, clear, obscured = (F.avg_pool2d(part, self.downscale) for part in (cloudy, clear, obscured))
            # Only cells whose every pixel has truth count.
            valid = (F.avg_pool2d(valid, self.downscale) == 1).float()
        return Patches(to_unit(cloudy), to_unit(clear), valid, obscured)


def _dihedral(array: NDArray[np.generic], turn: int, mirror: bool) -> NDArray[np.generic]:
    """Return one of the eight rotations and reflections of the last two axes."""
    turned = np.rot90(array, turn, axes=(-2, -1))
    return np.ascontiguousarray(turned[..., ::-1] if mirror else turned)
