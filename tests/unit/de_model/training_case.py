"""A small training that tests share; run as a script it trains in a folder, to be killed or run in several processes.

python training_case.py FOLDER [OUT]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from de_model import checkpoint
from de_model.card import ModelCard
from de_model.data.pairs import PairData, Patches, ScenePair
from de_model.enhancer import Enhancer
from de_model.presets import Preset
from de_model.radiometry import to_unsigned
from de_model.training.course import Observer, Progress
from de_model.training.objective import Batch, valid_count
from de_model.training.stages import Stage, StageOptions, TrainingOptions
from de_model.training.store import Store
from de_model.training.trainer import train

BANDS = ("red", "nir")
STAGES = tuple(
    StageOptions(stage, steps, 4, 16, 1, 2e-3)
    for stage, steps in (
        (Stage.REFERENCE, 20),
        (Stage.FINE, 12),
        (Stage.ALLOCATION, 12),
        (Stage.JOINT, 8),
    )
)


def pair(seed: int = 0, size: int = 96) -> ScenePair:
    """Ground with structure, one soft cloud, and a corner without data."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    ground = np.stack([0.1 + 0.05 * np.sin(9 * x + seed), 0.3 + 0.1 * np.cos(7 * y)]) + random.normal(
        0, 0.005, (2, size, size)
    )
    thickness = np.clip(1.5 - 4 * np.hypot(x - 0.5, y - 0.5), 0, 1)
    cloudy = (ground * (1 - thickness) + 0.8 * thickness).astype(np.float32)
    valid = np.ones((size, size), bool)
    valid[:4, :4] = False
    cloudy[:, ~valid] = np.nan
    return ScenePair(f"pair {seed}", cloudy, ground.astype(np.float32), valid, (thickness > 0.1) & valid)


def tiny(seed: int = 0) -> Enhancer:
    """An untrained model of the smallest preset."""
    torch.manual_seed(seed)
    return Enhancer(ModelCard(Preset.TINY, BANDS, 10.0, trained_on="test"))


def data() -> PairData:
    """Two pairs."""
    return PairData([pair(0), pair(1)])


def batch_of(x0: torch.Tensor, valid: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> Batch:
    """A batch whose truth is `x0` `(batch, band, y, x)` in [-1, 1]."""
    clear = to_unsigned(x0)
    return Batch(Patches(clear, clear, valid, valid), eps, t, valid_count(valid, x0.shape[1]))


def identity() -> dict[str, str]:
    """What the small training depends on."""
    return {"data": data().fingerprint, "seed": "3", "stages": str(STAGES)}


class Losses(Observer):
    """Writes a line a step, with every digit."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_step(self, progress: Progress) -> None:
        """Append a line."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(f"{progress.stage} {progress.step} {progress.losses}\n")


def main() -> None:
    """Train in a folder and write the final weights."""
    torch.set_num_threads(1)
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    model, store, noted = tiny(), Store(folder, identity()), Losses(folder.with_suffix(".losses"))
    train(model, data(), STAGES, TrainingOptions(seed=3), store=store, save_every=3, observers=[noted])
    checkpoint.save(model, out)


if __name__ == "__main__":
    main()
