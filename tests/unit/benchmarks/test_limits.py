"""The bounds that the model is compared with."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.limits import kriging
from de_model.metrics.baselines import interpolated


def _field(seed: int) -> np.ndarray:
    """Return two bands of smooth ground with noise of single pixels, mean 0 and deviation near 1."""
    random = np.random.default_rng(seed)
    smooth = gaussian_filter(random.normal(size=(2, 96, 96)), (0, 6, 6), mode="wrap")
    smooth = smooth / smooth.std() + 0.3 * random.normal(size=smooth.shape)
    return (smooth - smooth.mean(axis=(1, 2), keepdims=True)).astype(np.float32)


def test_kriging_of_smooth_ground_beats_its_colour_and_its_interpolation() -> None:
    known = np.ones((96, 96), bool)
    known[30:60, 20:70] = False
    errors = []
    for seed in range(6):
        ground = _field(seed)
        guesses = (np.zeros_like(ground), interpolated(ground, known, (0.0, 0.0)).image, kriging(ground, known))
        errors.append([np.square(guess - ground)[:, ~known].mean() for guess in guesses])
    flat, nearby, kriged = np.mean(errors, axis=0)
    assert kriged < 0.9 * nearby
    assert kriged < 0.8 * flat


def test_kriging_looks_at_known_pixels_only() -> None:
    ground, known = _field(1), np.ones((96, 96), bool)
    known[40:50, 40:50] = False
    other = np.where(known, ground, 9.0).astype(np.float32)
    np.testing.assert_array_equal(kriging(ground, known), kriging(other, known))
