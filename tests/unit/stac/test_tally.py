"""Statistics of windows are those of the whole, nodata left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stac.product.writer import BandTally


def test_statistics_are_those_of_valid_pixels() -> None:
    tally = BandTally(0)
    tally.add(np.array([[0, 2], [4, 6]], np.uint16))
    assert tally.statistics == {
        "minimum": 2.0,
        "maximum": 6.0,
        "mean": 4.0,
        "stddev": pytest.approx(np.std([2, 4, 6]), abs=1e-6),
        "valid_percent": 75.0,
    }
    empty = BandTally(np.nan)
    empty.add(np.full((2, 2), np.nan, np.float32))
    assert empty.statistics == {"valid_percent": 0.0} and empty.mean == 0


@given(hnp.arrays(np.uint16, st.tuples(st.integers(2, 20), st.integers(1, 20))), st.integers(1, 19))
def test_windows_add_up_to_the_whole(pixels: np.ndarray, row: int) -> None:
    whole, parts = BandTally(0), BandTally(0)
    whole.add(pixels)
    for window in (pixels[row:], pixels[:row]):
        parts.add(window)
    assert parts.statistics == pytest.approx(whole.statistics, abs=1e-5)
