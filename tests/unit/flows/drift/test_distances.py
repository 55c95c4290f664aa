"""Distances between distributions: known values, and what holds for any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import wasserstein_distance

from flows.drift.compare import population_stability_index, total_variation, wasserstein

CENTRES = np.array([0.0, 0.1, 0.2, 0.4, 0.9])
COUNTS = arrays(np.int64, 5, elements=st.integers(0, 1000)).filter(lambda counts: counts.sum() > 0)


def shares(counts: np.ndarray) -> np.ndarray:
    return counts / counts.sum()


def test_known_values() -> None:
    now, before = np.array([0.2, 0.8]), np.array([0.5, 0.5])
    assert population_stability_index(now, before) == pytest.approx(-0.3 * np.log(0.4) + 0.3 * np.log(1.6))
    assert wasserstein(now, before, np.array([0.0, 10.0])) == pytest.approx(3.0)
    assert total_variation(now, before) == pytest.approx(0.3)


def test_everything_in_another_bin_is_far_and_finite() -> None:
    now, before = np.eye(5)[0], np.eye(5)[4]
    assert wasserstein(now, before, CENTRES) == pytest.approx(0.9)
    assert 10 < population_stability_index(now, before) < 20


@given(COUNTS, COUNTS)
def test_distances_are_symmetric_and_zero_only_for_the_same(one: np.ndarray, other: np.ndarray) -> None:
    a, b = shares(one), shares(other)
    for distance in (
        population_stability_index,
        total_variation,
        lambda p, q: wasserstein(p, q, CENTRES),
    ):
        assert distance(a, b) == pytest.approx(distance(b, a)) and distance(a, a) == 0
        assert distance(a, b) >= 0
    assert (total_variation(a, b) > 1e-9) == (wasserstein(a, b, CENTRES) > 1e-10)


@given(COUNTS, COUNTS)
def test_the_way_of_values_is_that_of_scipy(one: np.ndarray, other: np.ndarray) -> None:
    expected = wasserstein_distance(CENTRES, CENTRES, one, other)
    assert wasserstein(shares(one), shares(other), CENTRES) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.tuples(COUNTS, COUNTS), min_size=1, max_size=4))
def test_many_pairs_are_measured_as_one_by_one(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    now, before = (np.array([shares(pair[i]) for pair in pairs]) for i in (0, 1))
    for distance in (population_stability_index, total_variation):
        single = [float(distance(a, b)) for a, b in zip(now, before, strict=True)]
        assert distance(now, before) == pytest.approx(single)
