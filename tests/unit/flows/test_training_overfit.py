"""The whole method can hold real pairs in memory: reference, noise predictor, weight allocation, and sampling."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from de_model.card import ModelCard
from de_model.data.pairs import FloatArray, Patches, ScenePair
from de_model.enhancer import Enhancer
from de_model.presets import Preset
from de_model.radiometry import to_unit
from de_model.training.objective import draw
from de_model.training.stage_run import psnr, restored
from de_model.training.stages import Stage, StageOptions, TrainingOptions
from de_model.training.trainer import train
from flows.models.training_pairs import mine_pairs
from flows.planning.search import SceneSet

SIDE, NUMBER = 64, 8
STAGES = (
    StageOptions(Stage.REFERENCE, 3200, 4, SIDE, 1, 3.2e-3),
    StageOptions(Stage.FINE, 30, 4, SIDE, 1, 2e-3),
    StageOptions(Stage.ALLOCATION, 60, 4, SIDE, 1, 4e-3),
    StageOptions(Stage.JOINT, 5, 4, SIDE, 1, 5e-4),
)
Found = tuple[float, str, int, int, ScenePair]


def cut(pair: ScenePair, row: int, column: int) -> ScenePair:
    window = (..., slice(row, row + SIDE), slice(column, column + SIDE))
    return ScenePair(pair.name, pair.cloudy[window], pair.clear[window], pair.valid[window], pair.obscured[window])


def difference(patch: ScenePair) -> float:
    """Return the mean squared difference of cloudy and clear, companded; infinite where the patch is of no use."""
    if patch.valid.mean() < 0.85 or (patch.obscured & patch.valid).mean() < 0.05:
        return np.inf
    cloudy, clear = (np.sqrt(np.clip(image[:, patch.valid], 0, 1)) for image in (patch.cloudy, patch.clear))
    return float(np.square(cloudy - clear).mean())


def thinnest() -> list[ScenePair]:
    """The eight patches of the sample under the thinnest cloud, no ground twice: what a tiny model can remember."""
    found: list[Found] = []
    for cell in ("MGRS-33TWL", "MGRS-33TWM"):
        for pair in mine_pairs(SceneSet(cells=(cell,)))[0]:
            corners = (range(0, n - SIDE + 1, SIDE // 4) for n in pair.valid.shape)
            found += [(difference(cut(pair, r, c)), cell, r, c, pair) for r, c in product(*corners)]
    chosen: list[Found] = []
    for patch in sorted(found, key=lambda patch: (*patch[:4], patch[4].name)):
        if all(patch[1] != o[1] or max(abs(patch[2] - o[2]), abs(patch[3] - o[3])) >= SIDE for o in chosen):
            chosen.append(patch)
        if len(chosen) == NUMBER:
            break
    return [cut(pair, row, column) for _, _, row, column, pair in chosen]


def as_patches(pairs: list[ScenePair]) -> Patches:
    def unit(images: list[FloatArray]) -> torch.Tensor:
        return to_unit(torch.nan_to_num(torch.from_numpy(np.stack(images))))

    masks = [torch.from_numpy(np.stack([getattr(p, n) for p in pairs]))[:, None].float() for n in ("valid", "obscured")]
    return Patches(unit([p.cloudy for p in pairs]), unit([p.clear for p in pairs]), *masks)


class Remembered:
    """A list of patches; a step takes some of them, and none comes twice before all have come."""

    def __init__(self, patches: Patches, seed: int = 0) -> None:
        self.patches, self.seed, self.bands = patches, seed, patches.clear.shape[1]

    def source(self, stage: StageOptions, seed: int) -> Remembered:
        return Remembered(self.patches, seed)

    def batch(self, step: int, count: int) -> Patches:
        random, number = np.random.default_rng([self.seed, step]), len(self.patches.clear)
        rounds = [random.permutation(number) for _ in range(-(-count // number))]
        return self.patches.part(torch.from_numpy(np.concatenate(rounds)[:count]))


@pytest.mark.thorough
@pytest.mark.timeout(1200)  # 100 s of one core, if it gets one
def test_a_tiny_model_learns_eight_real_pairs_by_heart() -> None:
    """More than 35 dB in reflectance (peak 1) on all pixels with truth, after the full DDIM-10 walk from noise."""
    data = Remembered(as_patches(thinnest()))
    torch.manual_seed(0)
    model = Enhancer(ModelCard(Preset.TINY, ("blue", "green", "red", "nir"), 120.0)).channels_last()
    train(model, data, STAGES, TrainingOptions(ema_rate=0.999))
    last = StageOptions(Stage.JOINT, 1, NUMBER, SIDE, 1, 1e-3)
    batch = draw(data.source(last, 0), last, 0, 0, model.schedule.timesteps)
    truth, valid = batch.patches.clear, batch.patches.valid > 0
    reference, enhanced = restored(model, Stage.JOINT, batch).parts
    before, composite, after = (psnr(image, truth, valid) for image in (batch.patches.cloudy, reference, enhanced))
    assert after > 35 > before + 8, f"cloudy {before:.2f} dB, reference {composite:.2f} dB, DE {after:.2f} dB"
