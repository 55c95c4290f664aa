"""The standard protocol against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from de_model.errors import InvalidModelInput
from de_model.metrics.standard import score

BANDS = ("red", "nir")
EVERYWHERE = np.ones((64, 64), bool)


@pytest.fixture
def truth() -> np.ndarray:
    rough = np.random.default_rng(0).uniform(0, 0.8, (2, 64, 64))
    return gaussian_filter(rough, (0, 1, 1)).astype(np.float32)


def test_known_values() -> None:
    truth = np.full((2, 4, 4), 0.2, np.float32)
    truth[1] = 0.4
    image = truth + np.array([0.1, -0.1], np.float32)[:, None, None]
    found = score(image, truth, np.ones((4, 4), bool), BANDS)
    assert found.mae == pytest.approx(0.1, abs=1e-6)
    assert found.rmse == pytest.approx(0.1, abs=1e-6)
    assert found.psnr == pytest.approx(20.0, abs=1e-3)
    assert found.ndvi_mae == pytest.approx(1 / 3 - 0.0, abs=1e-5)
    assert found.sam == pytest.approx(np.degrees(np.arctan(2) - np.arctan(1)), abs=1e-3)
    assert found.edge == pytest.approx(0, abs=1e-7)
    assert found.pixels == 16 and found.windows == 0
    assert np.isnan(found.ssim) and np.isnan(found.spectrum)


def test_an_image_equal_to_the_truth_has_no_error(truth: np.ndarray) -> None:
    found = score(truth, truth, EVERYWHERE, BANDS)
    assert (found.mae, found.rmse, found.edge, found.spectrum, found.psnr) == (0, 0, 0, 0, np.inf)
    assert found.ssim == pytest.approx(1) and found.sam == pytest.approx(0, abs=1e-4)
    assert found.windows == 54 * 54


def test_blur_lowers_ssim_and_raises_edge_and_spectrum_errors(truth: np.ndarray) -> None:
    blurred = [score(gaussian_filter(truth, (0, s, s)), truth, EVERYWHERE, BANDS) for s in (0.5, 1, 2)]
    assert blurred[0].ssim > blurred[1].ssim > blurred[2].ssim
    assert blurred[0].edge < blurred[1].edge < blurred[2].edge
    assert 1 < blurred[0].spectrum < blurred[1].spectrum < blurred[2].spectrum


def test_only_counted_pixels_matter() -> None:
    truth, where = np.random.default_rng(0).uniform(0, 1, (2, 5, 5)).astype(np.float32), np.zeros((5, 5), bool)
    image = truth.copy()
    where[2, 2] = True
    image[:, ~where] = np.nan
    found = score(image, truth, where, BANDS)
    assert found.mae == 0 and found.psnr == np.inf and found.pixels == 1


def test_windows_never_see_what_is_not_valid(truth: np.ndarray) -> None:
    """A cloud of the truth beside the counted pixels changes no figure once it is declared."""
    where = EVERYWHERE.copy()
    where[:, :18] = False
    valid = EVERYWHERE.copy()
    valid[:, :16] = False
    image = truth + np.float32(0.02)
    clean = score(image, truth, where, BANDS, valid)
    clouded = truth.copy()
    clouded[:, :, :16] = 1
    assert score(image, clouded, where, BANDS, valid) == clean
    assert score(image, clouded, where, BANDS).ssim != clean.ssim


def test_bad_input_is_refused() -> None:
    image = np.zeros((2, 4, 4), np.float32)
    with pytest.raises(InvalidModelInput, match="empty"):
        score(image, image, np.zeros((4, 4), bool), BANDS)
    with pytest.raises(InvalidModelInput, match="Shapes"):
        score(image, image[:1], np.ones((4, 4), bool), BANDS)
    with pytest.raises(InvalidModelInput, match="finite"):
        score(image * np.nan, image, np.ones((4, 4), bool), BANDS)
    with pytest.raises(InvalidModelInput, match="named: red"):
        score(image, image, np.ones((4, 4), bool), ("red",))
