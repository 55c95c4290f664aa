"""The composites of one date from others: what they are made of, and windows give what the whole cell gives."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from stac.composite.fusion import fit_fused
from stac.composite.haze import clean_sky_shift
from stac.composite.methods import CompositeMethod, fit_composite
from stac.composite.temporal import TemporalComposite, geomedian_clear, nearest_clear
from stac.grid.cell import Cell
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_observed

BANDS = ("blue", "green", "red", "nir")
HEIGHT, WIDTH = 120, 150
KINDS = [kind for kind in CompositeMethod if kind is not CompositeMethod.NONE]


def ground(seed: int = 0) -> np.ndarray:
    """Fields of 10 px: soils and crops."""
    random = np.random.default_rng(seed)
    green = random.uniform(0, 1, (HEIGHT // 10, WIDTH // 10)).repeat(10, 0).repeat(10, 1)
    green = (green + random.normal(0, 0.05, green.shape)).clip(0, 1)
    bare, crop = np.array([0.08, 0.11, 0.14, 0.2]), np.array([0.03, 0.06, 0.04, 0.4])
    return bare[:, None, None] * (1 - green) + crop[:, None, None] * green


def make_stack(images: list[np.ndarray], hidden: list[np.ndarray | None], days: list[int]) -> Stack:
    dn = np.stack([np.rint(image * 1e4).clip(1, 65535).astype(np.uint16) for image in images])
    classes = np.full((len(images), HEIGHT, WIDTH), PixelClass.CLEAR, np.uint8)
    for layer, mask in zip(classes, hidden, strict=True):
        if mask is not None:
            layer[mask] = PixelClass.CLOUD
    cell = Cell("TEST", GeoBox((HEIGHT, WIDTH), Affine(120, 0, 499920, 0, -120, 5000040), "EPSG:32633"))
    return Stack(dn, classes, tuple(f"day{d}" for d in days), np.array(days, np.int32), BANDS, cell)


def gap() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:100, 30:90] = True
    return mask


def noise(seed: int, size: float = 0.004) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, size, (4, HEIGHT, WIDTH))


def made(kind: CompositeMethod, stack: Stack, max_days: int | None = None) -> TemporalComposite:
    fitted = fit_composite(kind, stack, 0, max_days=max_days)
    assert fitted is not None
    return fitted.apply(stack, 0)


@pytest.fixture
def stack() -> Stack:
    base, other = ground(), gap()[::-1, ::-1]
    images = [base, base * 1.1 + 0.01 + noise(1), base * 0.9 + noise(2), base + 0.02 + noise(3)]
    return make_stack(images, [gap(), None, other, gap() & other], [10, 12, 15, 20])


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_is_a_date_that_saw_the_pixel(kind: CompositeMethod, stack: Stack) -> None:
    composite = made(kind, stack, max_days=9)
    assert set(np.unique(composite.source)) <= {-1, 1, 2}, "the target, or a date too far away"
    for index in (1, 2):
        assert is_observed(stack.classes[index])[composite.source == index].all()
    assert (np.isfinite(composite.reflectance).all(axis=0) == (composite.source >= 0)).all()


@given(st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_hidden_pixels_of_the_target_never_matter(seed: int) -> None:
    base, random = ground(), np.random.default_rng(seed)
    other = base.copy()
    other[:, gap()] = random.uniform(0, 1.5, (4, int(gap().sum())))
    first, second = (
        make_stack([image, ground(2), ground(3)], [gap(), None, None], [10, 12, 14]) for image in (base, other)
    )
    for kind in KINDS:
        assert np.array_equal(made(kind, first).reflectance, made(kind, second).reflectance, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_what_no_other_date_saw_is_unknown(kind: CompositeMethod) -> None:
    found = made(kind, make_stack([ground(), ground(1)], [gap(), gap()], [10, 12]))
    assert np.isnan(found.reflectance[:, gap()]).all() and (found.source[gap()] == -1).all()
    assert np.isfinite(found.reflectance[:, ~gap()]).all() and np.isfinite(found.spread[:, ~gap()]).all()
    assert np.isnan(made(kind, make_stack([ground()], [gap()], [10])).reflectance).all(), "there is no other date"


def test_nearest_takes_the_nearest_then_the_later_date() -> None:
    images = [ground() + 0.01 * i for i in range(4)]
    source = nearest_clear(make_stack(images, [None, None, None, gap()], [10, 8, 12, 11]), 0).source
    assert (source[~gap()] == 3).all() and (source[gap()] == 2).all()


def test_a_clean_date_gets_the_full_shift_and_one_that_teaches_nothing_is_not_believed() -> None:
    base = ground()
    clean = make_stack([base + 0.008, base], [gap(), None], [10, 12])
    assert clean_sky_shift(clean.reflectance(1), clean, 0) == pytest.approx([0.008] * 4, abs=5e-4)
    hazy = make_stack([base + 0.05 + noise(3, 0.08), base], [gap(), None], [10, 12])
    assert np.abs(clean_sky_shift(hazy.reflectance(1), hazy, 0)).max() < 0.01
    assert np.abs(fit_fused(hazy, 0).apply(hazy, 0).reflectance - base)[:, gap()].mean() < 0.01


def test_vegetation_and_soil_may_change_differently() -> None:
    """Between two angles of view crops brighten and soils darken: no line per band follows that."""
    base = ground()
    ndvi = (base[3] - base[2]) / (base[3] + base[2])
    stack = make_stack([base, base * (1.2 - 0.4 * ndvi)], [gap(), None], [10, 12])
    fused, line = fit_fused(stack, 0).apply(stack, 0), nearest_clear(stack, 0)
    error = [np.abs(composite.reflectance - base)[:, gap()].mean() for composite in (fused, line)]
    assert error[0] < 0.5 * error[1]


def test_a_smooth_difference_is_followed_into_the_gap() -> None:
    base = ground()
    slope = np.array([0, 0, 0, 0.03])[:, None, None] * np.linspace(-1, 1, WIDTH) * np.ones((4, HEIGHT, 1))
    stack = make_stack([base + slope, base], [gap(), None], [10, 12])
    fitted = fit_fused(stack, 0)
    assert fitted.field is not None
    flat = replace(fitted, field=None)
    error = [np.abs(f.apply(stack, 0).reflectance - base - slope)[:, gap()].mean() for f in (fitted, flat)]
    assert error[0] < 0.8 * error[1]


def test_haze_on_the_target_is_not_learnt() -> None:
    """Half of the target's clear pixels are hazy, blue most."""
    base, haze = ground(), np.zeros((4, HEIGHT, WIDTH))
    haze[:, :, 75:] = np.array([0.10, 0.08, 0.06, 0.03])[:, None, None]
    images = [base + haze * np.linspace(0.2, 1, WIDTH), base + noise(1), base + noise(2)]
    stack = make_stack(images, [gap(), None, None], [10, 12, 14])
    fitted = fit_fused(stack, 0)
    assert fitted.field is None
    assert np.abs(fitted.apply(stack, 0).reflectance - base)[:, gap()].mean() < 0.005
    lines = [np.polyfit(there[~gap()], here[~gap()], 1) for there, here in zip(images[1], images[0], strict=True)]
    matched = np.stack([np.polyval(line, band) for line, band in zip(lines, images[1], strict=True)])
    assert np.abs(matched - base)[:, gap()].mean() > 0.005, "a line learns the haze"


def test_dates_count_by_their_own_noise_not_by_the_target_s() -> None:
    """Noise of the target is in all residuals, and must not make a good and a bad date look alike."""
    base, sizes = ground(), (0.002, 0.004)
    images = [base + noise(9, 0.01), *(base + noise(i, size) for i, size in enumerate(sizes))]
    stack = make_stack(images, [gap(), None, None], [10, 11, 12])
    found = replace(fit_fused(stack, 0), field=None).apply(stack, 0)
    wanted = np.average(stack.reflectance(1)[None] * [[[[4.0]]]] + stack.reflectance(2)[None], axis=0) / 5
    error, best = (np.abs(image - base)[:, gap()].mean() for image in (found.reflectance, wanted))
    assert error < 1.15 * best, "equal weights: 1.25"
    assert (found.source == 1).all()
    # The spread is that of the target's value: of its noise, and of what the mean does not know.
    assert np.median(found.spread) == pytest.approx(0.0102, rel=0.15)


def test_a_pixel_is_made_of_its_eight_best_dates() -> None:
    base, sizes = ground(), [0.002] * 4 + [0.003] * 4 + [0.03] * 4
    images = [base, *(base + noise(i, size) for i, size in enumerate(sizes))]
    hidden = [gap(), *[None] * 4, *[gap()] * 4, *[None] * 4]
    stack = make_stack(images, hidden, list(range(10, 23)))
    changed = replace(stack, dn=stack.dn.copy())
    changed.dn[9:] += 300
    fitted = fit_fused(stack, 0)
    before, after = (fitted.apply(each, 0).reflectance for each in (stack, changed))
    assert np.array_equal(before[:, ~gap()], after[:, ~gap()], equal_nan=True), "eight better dates saw these"
    assert (before != after)[:, gap()].mean() > 0.9, "here only four did, so that the others count a little"


def test_the_geomedian_ignores_one_spoilt_date_in_all_bands() -> None:
    base = ground()
    spoilt = base.copy()
    spoilt[0] += 0.5
    stack = make_stack([base, base, spoilt, base + 0.001], [gap(), None, None, None], [10, 11, 12, 13])
    composite = geomedian_clear(stack, 0)
    assert np.abs(composite.reflectance - base).max() < 0.002
    assert not (composite.source == 2).any()


def test_no_bit_of_a_match_depends_on_the_threads_of_blas() -> None:
    code = (
        "import numpy as np; from stac.composite.normalisation import fit_map\n"
        "random = np.random.default_rng(0); source = random.uniform(0.02, 0.4, (4, 100_000)).astype(np.float32)\n"
        "target = 1.1 * source + random.normal(0, 0.01, source.shape).astype(np.float32)\n"
        "print(fit_map('day', source, target, ('blue', 'green', 'red', 'nir')))"
    )
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | dict.fromkeys(names, threads),
            check=True,
            capture_output=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(found) == 1
