"""Transplanted clouds and real pairs: the truth is exact, and nothing that restores can see it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from flows.models.evaluation_cases import Case, Protocol, error_sums, real_cases, transplanted_cases
from stac.composite.fusion import fit_fused
from stac.composite.temporal import median_clear, nearest_clear
from stac.grid.cell import cell_of
from stac.load.stack import Stack, read_stack
from stac.masks.classes import PixelClass, is_hidden
from stac.search.opening import open_source
from stac.search.query import Query
from stac.search.static import SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog

BANDS = ("blue", "green", "red", "nir")
CLOUDY, CLEAR = [3], [2, 4]


@pytest.fixture(scope="module")
def stack() -> Stack:
    items = open_source(str(sample_catalog())).search(Query.parse(SAMPLE_COLLECTION, None, SAMPLE_INTERVAL))
    chosen = sorted((item for item in items if "33TWL" in item.id), key=lambda item: item.id[11:19])
    whole = read_stack(chosen, cell_of(chosen[0], "blue"), BANDS)
    return whole.window(slice(100, 300), slice(200, 400))


@pytest.fixture(scope="module")
def cases(stack: Stack) -> list[Case]:
    return [*transplanted_cases(stack, CLOUDY, CLEAR), *real_cases(stack, CLOUDY, CLEAR)]


def test_the_truth_is_in_none_of_the_dates(cases: list[Case]) -> None:
    for case in cases:
        truth = case.truth[:, case.where]
        # Under the rim of a grown mask the target itself is nearly clear; it is hidden from everything by its class.
        assert is_hidden(case.stack.classes[case.target][case.where]).all()
        for index in set(range(len(case.stack.days))) - {case.target}:
            same = (case.stack.reflectance(index)[:, case.where] == truth).all(axis=0)
            assert same.mean() < 0.01, (case.name, case.stack.item_ids[index])


def test_outside_the_clouds_the_target_is_observed(stack: Stack, cases: list[Case]) -> None:
    for case in cases:
        if case.protocol is Protocol.TRANSPLANTED:
            classes = case.stack.classes[case.target]
            kept = ~is_hidden(stack.classes[3]) & (classes != PixelClass.NODATA)
            original = stack.dn[stack.index_of(case.stack.item_ids[case.target])]
            assert np.array_equal(case.stack.dn[case.target][:, kept], original[:, kept])
            assert (is_hidden(classes) == is_hidden(classes) | case.where).all()


def test_the_fused_composite_beats_simpler_ones_under_transplanted_clouds(cases: list[Case]) -> None:
    """The bar of the product: per-band lines fitted on what both dates saw."""
    for case in cases:
        if case.protocol is Protocol.REAL_PAIRS:
            continue
        images = [make(case.stack, case.target).reflectance for make in (nearest_clear, median_clear)] + [
            fit_fused(case.stack, case.target).apply(case.stack, case.target).reflectance
        ]
        where = case.where & np.isfinite(np.stack(images)).all(axis=(0, 1))
        line, median, fused = (error_sums(image, case.truth, where, BANDS).mae for image in images)
        assert fused < min(line, median), case.name


def test_errors_are_those_of_plain_formulas() -> None:
    random = np.random.default_rng(0)
    truth = random.uniform(0.05, 0.4, (4, 90, 70)).astype(np.float32)
    image = (truth + random.normal(0, 0.01, truth.shape)).astype(np.float32)
    where = random.random((90, 70)) < 0.5
    sums = error_sums(image, truth, where, BANDS)
    difference = (image - truth)[:, where].astype(np.float64)
    assert sums.pixels == where.sum() and len(sums.sums) == 4
    assert sums.mae == pytest.approx(np.abs(difference).mean())
    assert sums.psnr == pytest.approx(-10 * np.log10(np.square(difference).mean()))
    low, high = sums.mae_interval()
    assert low < sums.mae < high
    worse = error_sums(image + np.float32(0.02), truth, where, BANDS)
    assert worse.mae > sums.mae
    same = error_sums(truth, truth, where, BANDS)
    assert same.mae == 0 and same.psnr == np.inf and same.ndvi == 0
    assert dataclasses.replace(sums).mae == (sums + sums).mae
