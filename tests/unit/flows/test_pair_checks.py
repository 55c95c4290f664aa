"""Pairs that a model may learn from: the same ground, little time, no change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flows.models.training_data import PairLimits, best_shift, objection
from stac.grid.cell import cell_of
from stac.load.stack import Stack, read_stack
from stac.search.opening import open_source
from stac.search.query import Query
from stac.search.static import SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog

#: Positions of two dates of the stack that both saw most of the ground.
ONE, OTHER = 0, 1


@pytest.fixture(scope="module")
def stack() -> Stack:
    """Two clear dates of a corner of the sample, two days apart."""
    items = open_source(str(sample_catalog())).search(Query.parse(SAMPLE_COLLECTION, None, SAMPLE_INTERVAL))
    chosen = [item for item in items if "33TWM_20230813" in item.id or "33TWM_20230815" in item.id]
    bands = ("blue", "green", "red", "nir")
    return read_stack(chosen, cell_of(chosen[0], "blue", (15.43, 46.52, 15.50, 46.56)), bands)


@pytest.mark.parametrize("shift", [(0, 0), (2, -1), (-3, 3)])
def test_a_shift_is_found(stack: Stack, shift: tuple[int, int]) -> None:
    image = stack.reflectance(ONE)[-1]
    everywhere = np.ones(image.shape, bool)
    assert best_shift(image, np.roll(image, shift, axis=(0, 1)), everywhere) == shift
    assert best_shift(np.full_like(image, 0.1), image, everywhere) == (0, 0), "flat ground says nothing"


def test_a_good_pair_has_no_objection(stack: Stack) -> None:
    assert objection(stack, ONE, OTHER, stack.reflectance(OTHER), PairLimits()) is None


def test_every_limit_is_kept(stack: Stack) -> None:
    ground = stack.reflectance(OTHER)
    later = replace(stack, days=stack.days + np.array([0, 30]))
    cases = {
        "32 days apart, more than 15": (later, ground, PairLimits()),
        "shifted by 0 rows and 3 columns": (stack, np.roll(ground, 3, axis=2), PairLimits()),
        "100% of the ground has changed": (stack, ground + np.float32(0.3), PairLimits()),
        "only 0 pixels were seen on both": (stack, np.full_like(ground, np.nan), PairLimits()),
    }
    for says, (dates, image, limits) in cases.items():
        reason = objection(dates, ONE, OTHER, image, limits)
        assert reason is not None and says in reason
