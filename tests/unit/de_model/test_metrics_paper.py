"""The paper's protocol and the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from de_model.errors import InvalidModelInput
from de_model.metrics.bootstrap import Bootstrap, difference_interval, mean_interval
from de_model.metrics.paper import luma, paper_score, to_bytes

RGB = ("red", "green", "blue")
RGBN = ("red", "green", "blue", "nir")


def pair(bands: int = 3, seed: int = 0, size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = uniform_filter(generator.uniform(0, 1, (bands, size, size)), (0, 3, 3)).astype(np.float32)
    return (truth + generator.normal(0, 0.03, truth.shape)).clip(0, 1).astype(np.float32), truth


def scikit_image_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """scikit-image's structural_similarity(a, b, data_range=255) for one grey image, rebuilt on uniform_filter."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    ux, uy = uniform_filter(a, 7), uniform_filter(b, 7)
    norm = 49 / 48
    vx, vy = norm * (uniform_filter(a * a, 7) - ux * ux), norm * (uniform_filter(b * b, 7) - uy * uy)
    vxy = norm * (uniform_filter(a * b, 7) - ux * uy)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    s = ((2 * ux * uy + c1) * (2 * vxy + c2)) / ((ux**2 + uy**2 + c1) * (vx + vy + c2))
    return float(s[3:-3, 3:-3].mean())


def test_pixels_are_truncated_and_clamped() -> None:
    image = np.array([[[-0.5, 0.0, 0.999, 1.0, 1.7, 100.99 / 255]]], np.float32)
    assert to_bytes(image)[0, 0].tolist() == [0, 0, 254, 255, 255, 100]


def test_eight_bit_pixels_lose_what_they_lose_in_the_published_way() -> None:
    stored = np.arange(256, dtype=np.float32)
    published = ((stored / np.float32(127.5) - 1 + 1) * np.float32(127.5)).clip(0, 255).astype(np.uint8)
    found = to_bytes((stored / np.float32(255))[None, None])[0, 0]
    assert np.array_equal(found, published)
    assert (found != stored).sum() == 63


def test_psnr_is_over_all_bands_jointly_with_peak_255() -> None:
    truth = np.full((3, 8, 8), 100.5 / 255, np.float32)
    image = truth.copy()
    image[0] += 30 / 255
    expected = 10 * np.log10(255**2 / (30**2 / 3))
    assert paper_score(image, truth, RGB).psnr == pytest.approx(expected)


def test_ssim_of_rgb_is_the_one_of_luma_whatever_the_order_of_bands() -> None:
    image, truth = pair()
    weights = np.array([0.298912, 0.586611, 0.114478])[:, None, None]
    a, b = ((weights * to_bytes(x)).sum(axis=0) for x in (image, truth))
    assert luma(to_bytes(image), (0, 1, 2)) == pytest.approx(a)
    found = paper_score(image, truth, RGB)
    assert found.ssim == pytest.approx(scikit_image_ssim(a, b), abs=1e-9)
    turned = paper_score(image[::-1], truth[::-1], RGB[::-1])
    assert turned.ssim == pytest.approx(found.ssim) and turned.psnr == pytest.approx(found.psnr)


def test_ssim_of_four_bands_is_the_mean_of_the_bands() -> None:
    image, truth = pair(4)
    expected = np.mean([scikit_image_ssim(a, b) for a, b in zip(to_bytes(image), to_bytes(truth), strict=True)])
    assert paper_score(image, truth, RGBN).ssim == pytest.approx(expected, abs=1e-9)


def test_images_that_cannot_be_scored_are_refused() -> None:
    image, truth = pair()
    with pytest.raises(InvalidModelInput, match="finite"):
        paper_score(image * np.nan, truth, RGB)
    with pytest.raises(InvalidModelInput, match="7 px"):
        paper_score(image[:, :5], truth[:, :5], RGB)


def test_a_small_gain_on_every_image_is_certain() -> None:
    noisy = np.random.default_rng(1).uniform(0.01, 0.1, 12)
    gain = difference_interval(noisy, 0.95 * noisy, Bootstrap())
    assert gain.low > 0 and gain.mean == pytest.approx(0.05 * noisy.mean())


def test_intervals_are_reproducible_and_narrow_with_images() -> None:
    values = np.random.default_rng(3).normal(5, 1, 400)
    few, many = (mean_interval(values[:n], Bootstrap()) for n in (25, 400))
    assert few == mean_interval(values[:25], Bootstrap())
    assert few != mean_interval(values[:25], Bootstrap(seed=1))
    assert many.high - many.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert few.high - few.low > 3 * (many.high - many.low)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(4)
    found = [mean_interval(generator.normal(0, 1, 40), Bootstrap(500, 0.9)) for _ in range(300)]
    covered = np.mean([i.low <= 0 <= i.high for i in found])
    assert 0.84 < covered < 0.94


def test_undefined_and_infinite_values_are_handled() -> None:
    options = Bootstrap(200)
    assert mean_interval([1.0, np.nan, 3.0], options).mean == 2 and mean_interval([1.0, np.nan], options).images == 1
    assert np.isnan(mean_interval([1.0], options).low) and mean_interval([], options).images == 0
    assert mean_interval([np.inf, np.inf, 30.0], options).high == np.inf
    assert difference_interval([np.inf, 31.0], [np.inf, 30.0], options).mean == 0.5
    with pytest.raises(InvalidModelInput, match="paired"):
        difference_interval([1.0], [1.0, 2.0], options)
    with pytest.raises(InvalidModelInput, match="level"):
        Bootstrap(level=95)
