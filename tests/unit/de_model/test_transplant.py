"""Clouds and shadows of one date on the ground of another, made where the right answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from de_model.data.variation import transplant
from de_model.errors import InvalidModelInput

SIDE = 64
LEVEL = np.array([0.05, 0.3], np.float32)[:, None, None]
CLOUD = np.zeros((SIDE, SIDE), bool)
CLOUD[10:30, 10:40] = True
SHADOW = np.roll(CLOUD, (25, 5), axis=(0, 1))


def ground(seed: int, contrast: float = 0.02) -> np.ndarray:
    return LEVEL * (1 + contrast * np.random.default_rng(seed).standard_normal((2, SIDE, SIDE))).astype(np.float32)


def under(clear: np.ndarray, albedo: float, light: float = 1.0) -> np.ndarray:
    """The ground below a layer of some albedo, and in a grey shadow."""
    seen = np.where(CLOUD, albedo + (1 - albedo) ** 2 * clear, clear)
    return np.where(SHADOW, light * seen, seen).astype(np.float32)


def test_thin_cloud_and_shadow_are_moved_to_other_ground() -> None:
    there, here = ground(1), 1.2 * ground(2)
    found = transplant(under(there, 0.3, light=0.5), CLOUD, here, SHADOW)
    np.testing.assert_array_equal(found[:, ~(CLOUD | SHADOW)], here[:, ~(CLOUD | SHADOW)])
    assert np.abs(found - under(here, 0.3, light=0.5))[:, CLOUD | SHADOW].mean() < 0.01


def test_opaque_cloud_is_copied() -> None:
    cloudy = under(ground(1), 0.8)
    found = transplant(cloudy, CLOUD, ground(2))
    np.testing.assert_array_equal(found[:, CLOUD], cloudy[:, CLOUD])


def test_transplants_that_cannot_be_are_refused() -> None:
    cloudy = under(ground(1), 0.5)
    with pytest.raises(InvalidModelInput, match="differ in size"):
        transplant(cloudy, CLOUD, ground(2)[:, :32])
    with pytest.raises(InvalidModelInput, match="open ground"):
        transplant(cloudy, np.ones_like(CLOUD), ground(2))
