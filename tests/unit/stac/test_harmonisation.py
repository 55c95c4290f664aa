"""Matching one date's radiometry to another's, and the product's temporal composite."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from stac.composite.fusion import fit_fused
from stac.composite.normalisation import clean_sky_match
from stac.composite.temporal import TemporalComposite, median_clear, nearest_clear
from stac.grid.cell import Cell
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_observed

BANDS = ("blue", "green", "red", "nir")
LEVELS = np.array([0.04, 0.06, 0.05, 0.3])[:, None, None]
SIDE = 96


def ground(seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return LEVELS * (1 + 0.3 * random.uniform(-1, 1, (4, SIDE, SIDE)))


def make_stack(images: list[np.ndarray], hidden: list[np.ndarray | None], days: list[int]) -> Stack:
    """A stack of reflectance images; hidden pixels are cloud."""
    dn = np.stack([np.rint(image * 1e4).clip(1, 65535).astype(np.uint16) for image in images])
    classes = np.full((len(images), SIDE, SIDE), PixelClass.CLEAR, np.uint8)
    for layer, mask in zip(classes, hidden, strict=True):
        if mask is not None:
            layer[mask] = PixelClass.CLOUD
    cell = Cell("TEST", GeoBox((SIDE, SIDE), Affine(10, 0, 500000, 0, -10, 5000000), "EPSG:32633"))
    return Stack(dn, classes, tuple(f"day{d}" for d in days), np.array(days, np.int32), BANDS, cell)


def fused(
    stack: Stack, target: int, *, max_days: int | None = None, exclude: Collection[int] = ()
) -> TemporalComposite:
    return fit_fused(stack, target, max_days=max_days, exclude=exclude).apply(stack, target, exclude=exclude)


def half() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:, : SIDE // 2] = True
    return mask


@given(st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_hidden_pixels_of_the_target_never_matter(seed: int) -> None:
    base, random = ground(), np.random.default_rng(seed)
    other = base.copy()
    other[:, half()] = random.uniform(0, 1.5, (4, int(half().sum())))
    first, second = (
        make_stack([image, ground(2), ground(3)], [half(), None, None], [10, 12, 14]) for image in (base, other)
    )
    for composite in (nearest_clear, median_clear, fused):
        assert np.array_equal(composite(first, 0).reflectance, composite(second, 0).reflectance, equal_nan=True)


def test_excluded_and_distant_dates_never_contribute() -> None:
    poison = np.full((4, SIDE, SIDE), 0.9)
    stack = make_stack([ground(), ground(1), poison, poison], [half(), None, None, None], [10, 12, 13, 60])
    for composite in (nearest_clear, median_clear, fused):
        found = composite(stack, 0, exclude=[2], max_days=20)
        assert found.reflectance.max() < 0.5
        assert set(np.unique(found.source)) <= {1}


def test_nearest_takes_the_nearest_then_the_later_date() -> None:
    images = [ground(), ground() + 0.01, ground() + 0.02, ground() + 0.03]
    stack = make_stack(images, [half(), None, None, half()], [10, 8, 12, 11])
    composite = nearest_clear(stack, 0)
    assert (composite.source[:, SIDE // 2 :] == 3).all()
    assert (composite.source[:, : SIDE // 2] == 2).all()


def test_no_source_date_gives_nan_and_minus_one() -> None:
    stack = make_stack([ground(), ground(1)], [half(), half()], [10, 12])
    for composite in (nearest_clear, median_clear, fused):
        found = composite(stack, 0)
        assert np.isnan(found.reflectance[:, half()]).all() and (found.source[half()] == -1).all()
        assert np.isfinite(found.reflectance[:, ~half()]).all() and np.isfinite(found.spread[:, ~half()]).all()


def test_alone_there_is_no_composite() -> None:
    stack = make_stack([ground()], [half()], [10])
    assert np.isnan(fused(stack, 0).reflectance).all()


def test_a_clean_target_gets_the_full_shift() -> None:
    base = ground()
    stack = make_stack([base + 0.008, base], [half(), None], [10, 12])
    fits = clean_sky_match(stack.reflectance(1), stack, 0)
    assert [f.intercept for f in fits] == pytest.approx([0.008] * 4, abs=5e-4)


def test_haze_does_not_enter_the_composite() -> None:
    """Half of the clear side is hazy: a line on all clear pixels would follow it."""
    base = ground()
    haze = np.zeros((SIDE, SIDE))
    haze[:56, SIDE // 2 :] = 0.06
    stack = make_stack([base + haze, base], [half(), None], [10, 12])
    assert np.abs(fused(stack, 0).reflectance - base)[:, half()].mean() < 0.003


def test_a_target_that_teaches_nothing_is_not_believed() -> None:
    base, random = ground(), np.random.default_rng(3)
    hazy = base + 0.05 + random.normal(0, 0.08, base.shape)
    stack = make_stack([hazy, base], [half(), None], [10, 12])
    assert np.abs(fused(stack, 0).reflectance - base)[:, half()].mean() < 0.01


def test_median_source_is_a_date_that_saw_the_pixel() -> None:
    masks = [half(), None, ~half(), None]
    stack = make_stack([ground(i) for i in range(4)], masks, [10, 12, 13, 14])
    composite = median_clear(stack, 0)
    for index in (1, 2, 3):
        assert is_observed(stack.classes[index])[composite.source == index].all()
    assert not (composite.source == 0).any()
