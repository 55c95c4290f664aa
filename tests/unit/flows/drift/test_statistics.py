"""Counts and sums of distributions; distances between them: known values, and what holds for any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import wasserstein_distance

from de_model.errors import InvalidCheckpoint
from flows.drift.compare import population_stability_index, total_variation, wasserstein
from flows.drift.statistics import NDVI, SKY, SUN, Histogram, feature_of, ndvi_steps, reflectance

BLUE = reflectance("blue")
STEPS = st.lists(st.integers(0, 12_000), min_size=1, max_size=300)


@given(STEPS)
def test_the_mean_is_that_of_the_values(values: list[int]) -> None:
    found = Histogram.of_steps(BLUE, np.array(values, np.uint16))
    assert found.size == len(values)
    assert found.mean == pytest.approx(np.mean(values) * 1e-4)


@given(STEPS, STEPS)
def test_parts_add_up_to_the_whole(one: list[int], other: list[int]) -> None:
    parts = [Histogram.of_steps(BLUE, np.array(values)) for values in (one, other)]
    whole = Histogram.of_steps(BLUE, np.array(one + other))
    pooled = Histogram.pooled(parts)
    assert pooled.counts == whole.counts and pooled.mean == pytest.approx(whole.mean)


def test_values_on_an_edge_belong_to_the_bin_above_and_none_is_lost() -> None:
    found = Histogram.of_steps(BLUE, np.array([0, 99, 100, 2999, 3000, 60_000]))
    assert found.counts[:2] == (2, 1) and found.counts[29:31] == (1, 1) and found.counts[-1] == 1
    below = Histogram.of_steps(NDVI, np.array([-9_000, 9_999]))
    assert below.counts[0] == 1 == below.counts[-1] and below.sum == pytest.approx(0.0999)
    assert Histogram.of_steps(BLUE, np.array([], np.uint16)).size == 0


def test_counts_alone_take_the_middle_of_their_bins() -> None:
    counts = [0] * SUN.bins
    counts[22] = 2  # 55 to 57.5 degrees
    assert Histogram.of_counts(SUN, counts).mean == pytest.approx(56.25)
    assert Histogram.of_counts(SKY, [3, 0, 1, 0, 0, 0]).shares[2] == 0.25


def test_ndvi_of_nothing_is_not_a_division_by_zero() -> None:
    red, nir = np.array([0, 1000, 500], np.int32), np.array([0, 1000, 1500], np.int32)
    assert ndvi_steps(red, nir).tolist() == [0, 0, 5000]


def test_a_feature_that_is_not_known_is_refused() -> None:
    with pytest.raises(InvalidCheckpoint, match="unknown"):
        feature_of("colour of the sea")


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
