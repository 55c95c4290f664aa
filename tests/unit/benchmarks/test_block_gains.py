"""DE against its reference, block by block."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.ablations.block_gains import block_gains, radial_spectrum, spectrum_error


def scene(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.05, 0.3, (4, 128, 192)).astype(np.float32)


def test_a_better_image_gains_in_every_block() -> None:
    truth, everywhere = scene(0), np.ones((128, 192), bool)
    noise = np.random.default_rng(1).normal(0, 0.02, truth.shape).astype(np.float32)
    gains = list(block_gains(truth + noise / 2, truth + noise, truth, everywhere))
    assert len(gains) == 6
    assert all(5.9 < gain.psnr - gain.reference_psnr < 6.2 for gain in gains)


def test_blocks_with_few_hidden_pixels_are_left_out() -> None:
    truth, where = scene(0), np.zeros((128, 192), bool)
    where[:10, :10] = True
    assert list(block_gains(truth, truth, truth, where)) == []


def test_white_noise_has_a_flat_spectrum_of_its_variance() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 256, 256))
    power = radial_spectrum(noise, np.ones((256, 256), bool))
    assert power is not None
    assert power[0, 2:] == pytest.approx(0.01, rel=0.05)


def test_halved_detail_is_six_decibels() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 64, 64))
    inside = np.ones((64, 64), bool)
    assert spectrum_error(noise / 2, noise, inside) == pytest.approx(20 * np.log10(2))
    assert spectrum_error(noise, noise / 2, inside) == pytest.approx(20 * np.log10(2))
    assert spectrum_error(noise + 0.3, noise, inside) == pytest.approx(0, abs=1e-9)


def test_spectra_use_windows_that_lie_fully_inside() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 64, 64))
    inside = np.zeros((64, 64), bool)
    inside[8:40, 12:44] = True
    other = np.where(inside, noise, 9)
    assert spectrum_error(other, noise, inside) == 0
    inside[8:40:15] = False
    assert np.isnan(spectrum_error(noise, noise, inside))
    assert np.isnan(spectrum_error(noise[:, :8], noise[:, :8], inside[:8]))


def test_spectra_of_infinite_or_missing_surroundings_stay_finite() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 64, 64))
    inside = np.zeros((64, 64), bool)
    inside[8:40, 12:44] = True
    assert spectrum_error(np.where(inside, noise, np.nan), noise, inside) == 0
