"""SSIM, gradients and spectra against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from de_model.metrics.similarity import Window, gaussian_window, ssim_per_band, uniform_window, whole_windows
from de_model.metrics.texture import edge_error, gradient_magnitude, radial_spectrum, spectrum_error

WINDOWS = [gaussian_window(), uniform_window()]


def pair(height: int = 24, width: int = 30) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    a = gaussian_filter(generator.uniform(0, 1, (2, height, width)), (0, 1, 1))
    return a, (a + generator.normal(0, 0.05, a.shape)).clip(0, 1)


def naive_ssim(a: np.ndarray, b: np.ndarray, y: int, x: int, window: Window, peak: float) -> float:
    """SSIM of one pixel, written from the definition."""
    half = window.size // 2
    w = np.outer(window.taps, window.taps)
    p, q = (i[y - half : y + half + 1, x - half : x + half + 1] for i in (a, b))
    mp, mq = (w * p).sum(), (w * q).sum()
    n = window.size**2
    unbias = n / (n - 1) if window.sample_covariance else 1
    vp, vq = (unbias * (w * (i - m) ** 2).sum() for i, m in ((p, mp), (q, mq)))
    cov = unbias * (w * (p - mp) * (q - mq)).sum()
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    return (2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("peak", [1.0, 255.0])
def test_ssim_is_the_mean_of_the_definition_over_whole_windows(window: Window, peak: float) -> None:
    a, b = (i * peak for i in pair())
    half = window.size // 2
    expected = [
        np.mean([naive_ssim(p, q, y, x, window, peak) for y in range(half, 24 - half) for x in range(half, 30 - half)])
        for p, q in zip(a, b, strict=True)
    ]
    found, count = ssim_per_band(a, b, np.ones((24, 30), bool), window, peak)
    assert found == pytest.approx(expected, abs=1e-9)
    assert count == (24 - 2 * half) * (30 - 2 * half)


def test_the_gaussian_window_is_the_published_one() -> None:
    taps = gaussian_window().taps
    assert len(taps) == 11 and sum(taps) == pytest.approx(1)
    assert taps[6] / taps[5] == pytest.approx(np.exp(-1 / (2 * 1.5**2)))


def test_ssim_of_two_flat_images_is_the_luminance_term() -> None:
    a, b = np.full((1, 20, 20), 0.3), np.full((1, 20, 20), 0.6)
    found, _ = ssim_per_band(a, b, np.ones((20, 20), bool), gaussian_window(), 1.0)
    assert found[0] == pytest.approx((2 * 0.3 * 0.6 + 1e-4) / (0.3**2 + 0.6**2 + 1e-4))


def test_missing_pixels_take_their_windows_with_them_and_nothing_else() -> None:
    a, b = pair()
    valid = np.ones((24, 30), bool)
    valid[12, 15] = False
    gap = a.copy()
    gap[:, 12, 15] = np.nan
    where = np.ones((24, 30), bool)
    where[4:, :] = False
    where[5, 5:25] = True  # whole windows that end just above the gap, and some that hold it
    found, count = ssim_per_band(gap, b, where, uniform_window(), 1.0, valid)
    chosen = where & whole_windows(valid, 7)
    expected, _ = ssim_per_band(a, b, chosen, uniform_window(), 1.0)
    assert count == chosen.sum() < (where & whole_windows(np.ones_like(valid), 7)).sum() + 1
    assert found == pytest.approx(expected)


def test_whole_windows_are_counted_exactly() -> None:
    usable = np.ones((9, 9), bool)
    assert whole_windows(usable, 3).sum() == 49
    usable[4, 4] = False
    assert whole_windows(usable, 3).sum() == 40


def test_the_gradient_of_a_ramp_is_its_slope() -> None:
    y, x = np.mgrid[:10, :10].astype(float)
    magnitude = gradient_magnitude((0.03 * x + 0.04 * y)[None])
    assert magnitude[0, 1:-1, 1:-1] == pytest.approx(0.05)


def test_edge_error_ignores_offsets_and_sees_lost_edges() -> None:
    a, _ = pair()
    everywhere = np.ones((24, 30), bool)
    assert edge_error(a + 0.2, a, everywhere, everywhere) == pytest.approx(0, abs=1e-12)
    flat = np.full_like(a, 0.5)
    expected = gradient_magnitude(a)[:, 1:-1, 1:-1].mean()
    assert edge_error(flat, a, everywhere, everywhere) == pytest.approx(expected)


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
