"""The paper's protocol, the entry point of both protocols, and the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from de_model.errors import InvalidModelInput
from de_model.metrics.bootstrap import Bootstrap, difference_interval, mean_interval
from de_model.metrics.lpips import Lpips
from de_model.metrics.paper import luma, paper_score, to_bytes
from de_model.metrics.protocols import Figure, Protocol, compare, evaluate

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


def random_lpips() -> Lpips:
    torch.manual_seed(0)
    model = Lpips().eval().requires_grad_(False)
    for head in model.heads:
        head.uniform_(0, 1)
    return model


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


def test_lpips_is_fed_bytes_and_left_out_without_weights() -> None:
    image, truth = pair()
    model = random_lpips()
    a, b = (torch.from_numpy(to_bytes(x)).float().unsqueeze(0) for x in (image, truth))
    assert paper_score(image, truth, RGB).lpips is None
    assert paper_score(image, truth, RGB, model).lpips == pytest.approx(float(model(a, b)), rel=1e-6)
    standard = evaluate(Protocol.STANDARD, [image], [truth], RGB, lpips=model).per_image[Figure.LPIPS][0]
    signed = [torch.from_numpy(x * 2 - 1).unsqueeze(0) for x in (image, truth)]
    assert standard == pytest.approx(float(model(*signed)), rel=1e-6)


def test_four_bands_are_shown_to_lpips_one_by_one() -> None:
    image, truth = pair(4)
    model = random_lpips()
    greys = [
        float(model(*(torch.from_numpy(to_bytes(x)[i]).float().expand(1, 3, -1, -1) for x in (image, truth))))
        for i in range(4)
    ]
    assert paper_score(image, truth, RGBN, model).lpips == pytest.approx(np.mean(greys), rel=1e-6)


def test_figures_are_averaged_over_images() -> None:
    pairs = [pair(seed=s) for s in range(4)]
    found = evaluate(Protocol.PAPER, (p[0] for p in pairs), (p[1] for p in pairs), RGB)
    psnr = [paper_score(*p, RGB).psnr for p in pairs]
    interval = found.interval(Figure.PSNR)
    assert interval is not None and found.images == 4
    assert interval.mean == pytest.approx(np.mean(psnr))
    assert interval.low <= interval.mean <= interval.high
    assert found.interval(Figure.LPIPS) is None and found.record()["lpips"] is None
    assert set(found.record()) == {"psnr", "ssim", "lpips"}


def test_the_standard_protocol_counts_masked_pixels_only() -> None:
    image, truth = pair(4)
    mask = np.zeros((40, 40), bool)
    mask[5:30, 5:30] = True
    spoiled = np.where(mask, image, 1.0).astype(np.float32)
    found = evaluate(Protocol.STANDARD, [spoiled], [truth], RGBN, masks=[mask], lpips=random_lpips())
    clean = evaluate(Protocol.STANDARD, [image], [truth], RGBN, masks=[mask], lpips=random_lpips())
    for figure in (Figure.MAE, Figure.PSNR, Figure.SAM, Figure.NDVI, Figure.LPIPS, Figure.SPECTRUM):
        assert found.per_image[figure] == pytest.approx(clean.per_image[figure]), figure


def test_a_failure_names_the_image() -> None:
    image, truth = pair()
    with pytest.raises(InvalidModelInput, match=r"Image 1: .*finite"):
        evaluate(Protocol.PAPER, [image, image * np.nan], [truth, truth], RGB)
    with pytest.raises(InvalidModelInput, match="Image 1 lacks a partner"):
        evaluate(Protocol.STANDARD, [image, image], [truth], RGB)
    with pytest.raises(InvalidModelInput, match="No image"):
        evaluate(Protocol.PAPER, [], [], RGB)
    with pytest.raises(InvalidModelInput, match="masks"):
        evaluate(Protocol.PAPER, [image], [truth], RGB, masks=[image[0] > 0])
    with pytest.raises(InvalidModelInput, match=r"Image 0: .*7 px"):
        evaluate(Protocol.PAPER, [image[:, :5]], [truth[:, :5]], RGB)


def test_candidates_are_compared_image_by_image() -> None:
    """A small gain on every image is certain although the images differ by much more."""
    pairs = [pair(seed=s) for s in range(12)]
    noisy = [t + (i - t) * (1 + 3 * k) for k, (i, t) in enumerate(pairs)]
    better = [t + (i - t) * 0.95 for i, (_, t) in zip(noisy, pairs, strict=True)]
    truths = [t for _, t in pairs]
    one, other = (evaluate(Protocol.STANDARD, c, truths, RGB) for c in (better, noisy))
    found = compare(one, other)[Figure.MAE]
    assert found.excludes_zero and found.high < 0
    plain = one.interval(Figure.MAE), other.interval(Figure.MAE)
    assert plain[0] is not None and plain[1] is not None and plain[0].high > plain[1].low
    assert Figure.LPIPS not in compare(one, other)
    with pytest.raises(InvalidModelInput, match="compared"):
        compare(one, evaluate(Protocol.PAPER, noisy, truths, RGB))


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
