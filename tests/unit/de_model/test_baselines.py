"""Trivial fillers, on images whose right answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from de_model.metrics.baselines import (
    REACH_PX,
    flat_colour,
    interpolated,
    linear_match,
    mean_of_dates,
    nearest_date,
)

SHAPE = (2, 120, 120)
LEVEL = (0.1, 0.2)


def gap(side: int) -> np.ndarray:
    """Known everywhere but in a square in the middle."""
    known = np.ones(SHAPE[1:], bool)
    low = (SHAPE[1] - side) // 2
    known[low : low + side, low : low + side] = False
    return known


def test_a_flat_scene_is_filled_with_its_colour_and_no_cloud_leaks() -> None:
    known = gap(30)
    image = np.broadcast_to(np.array(LEVEL, np.float32)[:, None, None], SHAPE).copy()
    image[:, ~known] = 0.9
    found = interpolated(image, known, LEVEL)
    np.testing.assert_allclose(found.image, np.array(LEVEL)[:, None, None] * np.ones(SHAPE), atol=1e-6)
    assert found.spread.max() < 1e-3
    assert flat_colour(image, known) == pytest.approx(LEVEL)
    assert np.isnan(flat_colour(image, ~np.ones_like(known))).all()


def test_a_gap_follows_the_ground_beside_it_and_far_away_there_is_one_colour() -> None:
    known, slope = gap(40), np.linspace(0.1, 0.5, SHAPE[2], dtype=np.float32)
    image = np.broadcast_to(slope, SHAPE).copy()
    found = interpolated(np.where(known, image, np.nan), known, (0.3, 0.3)).image
    assert np.abs(found - image)[:, ~known].mean() < 0.5 * np.abs(0.3 - image)[:, ~known].mean()
    np.testing.assert_array_equal(found[:, known], image[:, known])
    nothing = interpolated(image, np.zeros_like(known), (0.3, 0.25)).image
    np.testing.assert_allclose(nothing, np.array([0.3, 0.25])[:, None, None] * np.ones(SHAPE), rtol=1e-6)


def test_a_window_with_enough_around_it_gives_the_bytes_of_the_whole() -> None:
    random = np.random.default_rng(0)
    image = random.random((2, 400, 380)).astype(np.float32)
    known = random.random((400, 380)) < 0.3
    known[110:250, 90:270] = False
    whole = interpolated(image, known, LEVEL)
    rows, columns = slice(160 - REACH_PX, 200 + REACH_PX), slice(150 - REACH_PX, 181 + REACH_PX)
    part = interpolated(image[:, rows, columns], known[rows, columns], LEVEL)
    for name in ("image", "spread"):
        one, other = getattr(whole, name)[:, 160:200, 150:181], getattr(part, name)
        np.testing.assert_array_equal(one, other[:, REACH_PX:-REACH_PX, REACH_PX:-REACH_PX])


def test_dates_fill_in_their_order() -> None:
    first, second, third = (np.full((1, 1, 4), value, np.float32) for value in (0.1, 0.2, 0.6))
    seen = [
        np.array([[True, False, False, False]]),
        np.array([[True, True, False, False]]),
        np.array([[True] * 3 + [False]]),
    ]
    np.testing.assert_array_equal(
        nearest_date([first, second, third], seen), np.array([[[0.1, 0.2, 0.6, np.nan]]], np.float32)
    )
    np.testing.assert_allclose(mean_of_dates([first, second, third], seen), [[[0.15, 0.4, 0.6, np.nan]]], rtol=1e-6)


def test_a_match_keeps_the_contrast_that_least_squares_loses_to_noise() -> None:
    random = np.random.default_rng(1)
    ground = random.uniform(0.15, 0.25, SHAPE).astype(np.float32)
    other, target = (ground + random.normal(0, 0.01, SHAPE).astype(np.float32) for _ in range(2))
    target = 1.2 * target + 0.02
    both = np.ones(SHAPE[1:], bool)
    target[:, :20, :20] = 0.9  # a missed cloud
    matched = linear_match(other, target, both)
    line = np.polyfit(other[0].ravel(), matched[0].ravel(), 1)
    assert line == pytest.approx([1.2, 0.02], abs=0.02)
    least_squares = np.polyfit(other[0, 20:].ravel(), target[0, 20:].ravel(), 1)[0]
    assert least_squares < 1.12 < line[0]


def test_a_match_does_not_carry_the_haze_of_the_target_into_the_ground() -> None:
    random = np.random.default_rng(2)
    other = random.uniform(0.05, 0.3, SHAPE).astype(np.float32)
    haze = np.linspace(0, 0.2, SHAPE[2], dtype=np.float32) * random.uniform(0.5, 1, SHAPE).astype(np.float32)
    matched = linear_match(other, other + haze, np.ones(SHAPE[1:], bool))
    assert np.abs(matched - other).mean() < 0.25 * haze.mean()
