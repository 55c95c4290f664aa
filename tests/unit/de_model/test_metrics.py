"""The standard protocol against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from de_model.errors import InvalidModelInput
from de_model.metrics.standard import score

BANDS = ("red", "nir")


def test_known_values() -> None:
    truth = np.full((2, 4, 4), 0.2, np.float32)
    truth[1] = 0.4
    image = truth + np.array([0.1, -0.1], np.float32)[:, None, None]
    found = score(image, truth, np.ones((4, 4), bool), BANDS)
    assert found.mae == pytest.approx(0.1, abs=1e-6)
    assert found.psnr == pytest.approx(20.0, abs=1e-3)
    assert found.ndvi_mae == pytest.approx(1 / 3 - 0.0, abs=1e-5)
    assert found.sam == pytest.approx(np.degrees(np.arctan(2) - np.arctan(1)), abs=1e-3)
    assert found.pixels == 16


def test_only_counted_pixels_matter() -> None:
    truth, where = np.random.default_rng(0).uniform(0, 1, (2, 5, 5)).astype(np.float32), np.zeros((5, 5), bool)
    image = truth.copy()
    where[2, 2] = True
    image[:, ~where] = np.nan
    found = score(image, truth, where, BANDS)
    assert found.mae == 0 and found.psnr == np.inf and found.pixels == 1


def test_bad_input_is_refused() -> None:
    image = np.zeros((2, 4, 4), np.float32)
    with pytest.raises(InvalidModelInput, match="empty"):
        score(image, image, np.zeros((4, 4), bool), BANDS)
    with pytest.raises(InvalidModelInput, match="Shapes"):
        score(image, image[:1], np.ones((4, 4), bool), BANDS)
    with pytest.raises(InvalidModelInput, match="finite"):
        score(image * np.nan, image, np.ones((4, 4), bool), BANDS)
