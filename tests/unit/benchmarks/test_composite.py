"""The simple fills that composites are compared with do what they say, and the page counts what it was given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.composite import Line, Score, Simple, blobby, least_squares, major_axis, page_of, theil_sen
from stac.load.stack import Stack
from stac.masks.classes import PixelClass


@pytest.fixture
def stack() -> Stack:
    """The target, and what two other dates saw of it: darker, brighter, the second one seen everywhere."""
    found = blobby(2).window(slice(0, 200), slice(0, 200))
    target = found.dn[0].astype(float)
    dn = np.stack([target, target * 0.8 + 100, target * 1.25 - 50])
    classes = found.classes.copy()
    classes[2] = PixelClass.CLEAR
    return replace(found, dn=np.rint(dn).clip(1, 65_535).astype(np.uint16), classes=classes)


@pytest.mark.parametrize("line", [least_squares, major_axis, theil_sen])
@pytest.mark.parametrize("believed", [False, True])
def test_dates_that_differ_by_a_line_give_the_target(stack: Stack, line: Line, believed: bool) -> None:
    filled = Simple(line, 2, 2, believed=believed)(stack, 0, 15)
    assert np.abs(filled - stack.reflectance(0)).max() < 2e-3


def test_only_the_nearest_dates_count(stack: Stack) -> None:
    moved = stack.dn.copy()
    moved[2] = np.maximum(moved[2] // 2, 1)
    one, other = (Simple(least_squares, 1)(replace(stack, dn=dn), 0, 15) for dn in (stack.dn, moved))
    seen = stack.classes[1] == PixelClass.CLEAR
    assert np.array_equal(one[:, seen], other[:, seen])
    assert np.isnan(Simple(least_squares, 1)(stack, 0, 1)[:, ~seen]).all(), "the second date is two days away"


def test_the_page_weighs_cases_by_their_pixels_and_counts_the_better_ones() -> None:
    names = ("mean of the two nearest linear matches", "fused")
    scores = [
        Score(300, dict(zip(names, [(0.02, 4e-4), (0.01, 1e-4)], strict=True)), 0.9),
        Score(100, dict(zip(names, [(0.02, 4e-4), (0.03, 9e-4)], strict=True)), 0.5),
    ]
    page = page_of({"here": scores}, {4: (1.0, 0.1), 8: (2.0, 0.2)})
    assert page.record["mae"]["fused"]["here"] == pytest.approx(0.015)
    assert page.record["coverage"]["here"] == pytest.approx(0.8)
    text = page.markdown("command")
    assert "| -25 %, better in 1 of 2 |" in text and "| 8 | 2.00 s | 0.200 s | 2.0 |" in text
