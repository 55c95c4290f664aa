"""Failure signatures: each fault moves its own figure, and a perfect restoration moves none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from de_model.errors import InvalidModelInput
from de_model.metrics.signatures import LEAST_SIGMA, Comparison, signatures, surroundings

BANDS = ("blue", "green", "red", "nir")


def ground(seed: int = 0) -> np.ndarray:
    """Homogeneous textured land, 128 px, four bands of different brightness."""
    texture = gaussian_filter(np.random.default_rng(seed).normal(0, 1, (128, 128)), 1, mode="wrap")
    texture /= texture.std()
    level, contrast = np.array([0.05, 0.08, 0.1, 0.3]), np.array([0.01, 0.012, 0.015, 0.03])
    return (level[:, None, None] + contrast[:, None, None] * texture).astype(np.float32)


@pytest.fixture
def mask() -> np.ndarray:
    y, x = np.mgrid[:128, :128]
    return (y - 64) ** 2 + (x - 60) ** 2 < 40**2


def both(image: np.ndarray, mask: np.ndarray, truth: np.ndarray) -> list[Comparison]:
    found = signatures(image, mask, BANDS, truth)
    assert found.surroundings is not None and found.truth is not None
    return [found.surroundings, found.truth]


def test_a_perfect_restoration_is_neutral(mask: np.ndarray) -> None:
    truth = ground()
    around, against = both(truth, mask, truth)
    assert against.excess == 0 and against.bright_share == 0 and against.expected_bright_share == 0
    assert against.gradient_ratio == 1 and against.detail_ratio == 1
    assert against.shift == (0, 0, 0, 0) and against.colour_shift == 0
    assert abs(around.excess) < 0.003 and around.bright_share < 0.01
    assert around.gradient_ratio == pytest.approx(1, abs=0.1) and around.detail_ratio == pytest.approx(1, abs=0.1)
    assert around.colour_shift < 0.3


def test_haze_left_behind_raises_the_excess_and_the_share(mask: np.ndarray) -> None:
    truth = ground()
    found = []
    for opacity in (0.0, 0.05, 0.2):
        image = truth.copy()
        image[:, mask] = truth[:, mask] * (1 - opacity) + 0.9 * opacity
        found.append(both(image, mask, truth))
    for clear, thin, thick in zip(*found, strict=True):
        assert clear.excess < thin.excess < thick.excess
        assert thick.excess == pytest.approx(0.2 * (0.9 - 0.05), abs=0.01)
        assert clear.bright_share < 0.01 and thin.bright_share > 0.5 and thick.bright_share > 0.99
        assert thick.expected_bright_share < 0.01


def test_a_shadow_does_not_make_up_for_a_cloud(mask: np.ndarray) -> None:
    truth = ground()
    image = truth.copy()
    half = mask & (np.arange(128) < 60)
    image[:, half] += 0.1
    image[:, mask & ~half] *= 0.3
    for found in both(image, mask, truth):
        assert found.excess > 0.03 and 0.3 < found.bright_share < 0.6


def test_blur_lowers_the_ratios_and_leaves_the_colour(mask: np.ndarray) -> None:
    truth = ground()
    found = []
    for sigma in (0.7, 1.5):
        image = truth.copy()
        image[:, mask] = gaussian_filter(truth, (0, sigma, sigma))[:, mask]
        found.append(both(image, mask, truth))
    for slight, strong in zip(*found, strict=True):
        assert 1 > slight.gradient_ratio > strong.gradient_ratio > 0
        assert slight.gradient_ratio < 0.9 and strong.gradient_ratio < 0.6
        assert slight.detail_ratio < slight.gradient_ratio and strong.detail_ratio < 0.1
        assert strong.colour_shift < 0.3 and abs(strong.excess) < 0.003


def test_noise_raises_the_ratios(mask: np.ndarray) -> None:
    truth = ground()
    image = truth.copy()
    image[:, mask] += np.random.default_rng(1).normal(0, 0.02, (4, mask.sum())).astype(np.float32)
    for found in both(image, mask, truth):
        assert found.gradient_ratio > 1.3 and found.detail_ratio > 2


def test_a_bias_raises_the_colour_shift_with_its_sign(mask: np.ndarray) -> None:
    truth = ground()
    found = []
    for bias in (0.01, 0.04):
        image = truth.copy()
        image[2, mask] -= bias
        found.append(both(image, mask, truth))
    for small, large in zip(*found, strict=True):
        assert small.colour_shift < large.colour_shift and large.colour_shift > 1
        assert large.shift[2] - small.shift[2] == pytest.approx(-0.03, abs=1e-5)
        assert abs(large.shift[0]) < 0.003


def test_robust_units_have_a_floor(mask: np.ndarray) -> None:
    truth = np.full((4, 128, 128), 0.1, np.float32)
    image = truth.copy()
    image[:, mask] += 0.01
    against = both(image, mask, truth)[1]
    assert against.colour_shift == pytest.approx(0.01 / LEAST_SIGMA, rel=1e-4)
    assert np.isnan(against.gradient_ratio)


def test_a_difference_between_the_dates_is_not_a_fault(mask: np.ndarray) -> None:
    truth = ground()
    image = (truth + 0.02).astype(np.float32)
    against = both(image, mask, truth)[1]
    assert abs(against.excess) < 1e-6 and against.colour_shift < 1e-4


def test_the_step_at_the_edge_is_not_taken_for_detail(mask: np.ndarray) -> None:
    truth = ground()
    image = truth.copy()
    image[:, mask] += 0.3
    for found in both(image, mask, truth):
        assert found.gradient_ratio == pytest.approx(1, abs=0.1)


def test_without_truth_or_surroundings_nothing_is_compared(mask: np.ndarray) -> None:
    truth = ground()
    found = signatures(truth, mask, BANDS)
    assert found.truth is None and found.surroundings is not None
    whole = signatures(truth, np.ones_like(mask), BANDS, truth)
    assert whole.surroundings is None and whole.truth is not None and np.isnan(whole.truth.expected_bright_share)
    lone = signatures(truth, mask, ("nir", "swir16", "swir22", "lwir"))
    assert lone.surroundings is not None and np.isnan(lone.surroundings.excess)
    hazy = truth.copy()
    hazy[1, mask] += 0.1
    seen = [signatures(hazy, mask, bands).surroundings for bands in (BANDS, ("red", "green", "nir", "swir16"))]
    assert seen[0].excess < 0.01 < 0.09 < seen[1].excess, "haze is looked for in blue, else in the next visible band"


def test_surroundings_are_observed_and_near(mask: np.ndarray) -> None:
    seen = np.ones_like(mask)
    seen[:20] = False
    ring = surroundings(mask, seen)
    assert not (ring & mask).any() and not ring[:20].any()
    y, x = np.nonzero(ring)
    assert np.hypot(y - 64, x - 60).max() < 40 + 16


def test_missing_pixels_are_left_out(mask: np.ndarray) -> None:
    truth = ground()
    gaps = truth.copy()
    gaps[:, :, 100:] = np.nan
    gaps[:, 60:70, 60:70] = np.nan
    found = both(np.where(mask, truth, gaps), mask, gaps)
    assert all(np.isfinite([f.excess, f.gradient_ratio, f.colour_shift]).all() for f in found)
    with pytest.raises(InvalidModelInput, match="finite"):
        signatures(gaps, mask, BANDS)


def test_bad_input_is_refused(mask: np.ndarray) -> None:
    truth = ground()
    with pytest.raises(InvalidModelInput, match="empty"):
        signatures(truth, np.zeros_like(mask), BANDS)
    with pytest.raises(InvalidModelInput, match="fit"):
        signatures(truth, mask[:-1], BANDS)
    with pytest.raises(InvalidModelInput, match="Shapes"):
        signatures(truth, mask, BANDS, truth[:2])
