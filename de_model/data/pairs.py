"""Cloudy/clear pairs cut from stacks of real acquisitions, and the patches a training step sees."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from de_model.errors import TrainingFailed
from de_model.radiometry import to_unit

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: A patch is used when this share of it has truth, and when clouds cover neither nothing nor all of it.
_MIN_VALID, _MIN_CLOUD, _MAX_CLOUD = 0.85, 0.05, 0.98
#: Draws per patch before the pairs are declared unusable.
_MAX_DRAWS = 200


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


@dataclass(frozen=True, slots=True)
class Patches:
    """A batch `(batch, band, y, x)` companded to [0, 1]; the masks are `(batch, 1, y, x)`, 0 or 1."""

    cloudy: Tensor
    clear: Tensor
    valid: Tensor
    obscured: Tensor


def fingerprint(pairs: Sequence[ScenePair]) -> str:
    """Return the SHA-256 over names and pixels of all pairs."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(pair.name.encode())
        for array in (pair.cloudy, pair.clear, pair.valid, pair.obscured):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class PatchSampler:
    """Draws patches; the draw depends on (seed, step) alone, so a resumed training sees the same data."""

    def __init__(self, pairs: Sequence[ScenePair], size: int, downscale: int = 1, seed: int = 0) -> None:
        """Prepare to draw patches of `size` px, area-averaged from `size * downscale` px of the pairs.

        Raises:
            TrainingFailed: there is no pair, or the pairs are smaller than a patch.
        """
        self.pairs, self.size, self.downscale, self.seed = list(pairs), size, downscale, seed
        self.extent = size * downscale
        if not self.pairs:
            raise TrainingFailed("No cloudy/clear pair was given; search a longer interval or another area.")
        smallest = min(min(pair.valid.shape) for pair in self.pairs)
        if smallest < self.extent:
            raise TrainingFailed(f"Patches need {self.extent} px, the smallest pair has {smallest} px.")

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
            row, column = (int(random.integers(n - self.extent + 1)) for n in pair.valid.shape)
            window = (slice(row, row + self.extent), slice(column, column + self.extent))
            covered = (pair.obscured & pair.valid)[window].mean()
            if pair.valid[window].mean() >= _MIN_VALID and _MIN_CLOUD <= covered <= _MAX_CLOUD:
                turn, mirror = int(random.integers(4)), bool(random.integers(2))
                parts = (
                    pair.cloudy[:, *window],
                    pair.clear[:, *window],
                    pair.valid[window],
                    pair.obscured[window],
                )
                return tuple(_dihedral(part, turn, mirror) for part in parts)  # type: ignore[return-value] # four in, four out
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
