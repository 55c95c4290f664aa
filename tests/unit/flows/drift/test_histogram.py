"""Counts and sums of distributions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.drift.statistics import NDVI, SKY, SUN, Histogram, feature_of, ndvi_steps, reflectance
from flows.errors import InvalidBaseline

BLUE = reflectance("blue")
STEPS = st.lists(st.integers(0, 12_000), min_size=1, max_size=300)


@given(STEPS)
def test_mean_and_spread_are_those_of_the_values(values: list[int]) -> None:
    found = Histogram.of_steps(BLUE, np.array(values, np.uint16))
    assert found.size == len(values)
    assert found.mean == pytest.approx(np.mean(values) * 1e-4)
    assert found.std == pytest.approx(np.std(values) * 1e-4, abs=1e-6)


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


def test_quantiles_lie_within_a_bin_of_those_of_the_values() -> None:
    values = np.random.default_rng(1).gamma(4, 120, 20_000).astype(np.int64)
    found = Histogram.of_steps(BLUE, values)
    for share in (0.05, 0.5, 0.95):
        assert found.quantile(BLUE, share) == pytest.approx(np.quantile(values, share) * 1e-4, abs=0.002)


def test_counts_alone_take_the_middle_of_their_bins() -> None:
    counts = [0] * SUN.bins
    counts[22] = 2  # 55 to 57.5 degrees
    assert Histogram.of_counts(SUN, counts).mean == pytest.approx(56.25)
    assert Histogram.of_counts(SKY, [3, 0, 1, 0, 0, 0]).summary(SKY)["cloud"] == 0.25


def test_ndvi_of_nothing_is_not_a_division_by_zero() -> None:
    red, nir = np.array([0, 1000, 500], np.int32), np.array([0, 1000, 1500], np.int32)
    assert ndvi_steps(red, nir).tolist() == [0, 0, 5000]


def test_a_feature_that_is_not_known_is_refused() -> None:
    with pytest.raises(InvalidBaseline, match="unknown"):
        feature_of("colour of the sea")
