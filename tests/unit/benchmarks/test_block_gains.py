"""DE against its reference, block by block."""

from __future__ import annotations

import numpy as np

from benchmarks.ablations.block_gains import block_gains

BANDS = ("blue", "green", "red", "nir")


def scene(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.05, 0.3, (4, 128, 192)).astype(np.float32)


def test_a_better_image_gains_in_every_block() -> None:
    truth, everywhere = scene(0), np.ones((128, 192), bool)
    noise = np.random.default_rng(1).normal(0, 0.02, truth.shape).astype(np.float32)
    gains = list(block_gains(truth + noise / 2, truth + noise, truth, everywhere, everywhere, BANDS))
    assert len(gains) == 6
    assert all(5.9 < gain.psnr - gain.reference_psnr < 6.2 for gain in gains)


def test_blocks_with_few_hidden_pixels_are_left_out() -> None:
    truth, where = scene(0), np.zeros((128, 192), bool)
    where[:10, :10] = True
    assert list(block_gains(truth, truth, truth, where, ~where | where, BANDS)) == []
