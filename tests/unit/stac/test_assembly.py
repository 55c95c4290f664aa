"""The promises of a product, on stacks that hypothesis invents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from stac.composite.fusion import fit_fused
from stac.errors import InvalidInput
from stac.grid.cell import Cell
from stac.load.stack import Stack
from stac.masks.classes import PixelClass, is_hidden, is_observed
from stac.product.layers import (
    SOURCE_DATE_NODATA,
    Intervals,
    ModelResult,
    ProductLayers,
    Provenance,
    assemble,
    best_known,
    unseen,
)

SIDE = 12
SYNTHETIC = (
    Provenance.OTHER_DATES,
    Provenance.THIN_CLOUD_CORRECTED,
    Provenance.REFERENCE_FILLED,
    Provenance.GENERATED,
)


def invent(seed: int, dates: int) -> tuple[Stack, ModelResult]:
    """A stack with every class everywhere, extreme digital numbers, and a model that sometimes fails."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, len(PixelClass), (dates, SIDE, SIDE)).astype(np.uint8)
    dn = random.choice(np.array([1, 2, 500, 9_999, 10_001, 65_535], np.uint16), (dates, 2, SIDE, SIDE))
    dn[np.broadcast_to((classes == PixelClass.NODATA)[:, None], dn.shape)] = 0
    cell = Cell("T", GeoBox((SIDE, SIDE), Affine(10, 0, 0, 0, -10, 0), "EPSG:32633"))
    ids = tuple(f"item{i}" for i in range(dates))
    days = random.integers(0, 40, dates).astype(np.int32)
    image = random.uniform(-0.1, 1.4, (2, SIDE, SIDE)).astype(np.float32)
    image[:, random.random((SIDE, SIDE)) < 0.1] = np.nan
    weight = random.uniform(0.3, 1, (SIDE, SIDE)).astype(np.float32)
    spread = random.uniform(0, 0.4, (2, SIDE, SIDE)).astype(np.float32)
    return Stack(dn, classes, ids, days, ("red", "nir"), cell), ModelResult(image, weight, spread)


def make(seed: int, dates: int, temporal: bool) -> tuple[Stack, ProductLayers, np.ndarray]:
    stack, model = invent(seed, dates)
    composite = fit_fused(stack, 0).apply(stack, 0) if temporal else None
    return stack, assemble(stack, 0, composite, model, max_spread=0.3), unseen(stack, 0, composite)


stacks = given(seed=st.integers(0, 2**32), dates=st.integers(1, 5), temporal=st.booleans())


@stacks
@settings(max_examples=60, deadline=None)
def test_observed_pixels_are_bit_identical(seed: int, dates: int, temporal: bool) -> None:
    stack, layers, _ = make(seed, dates, temporal)
    observed = is_observed(stack.classes[0])
    assert np.array_equal(layers.data[:, observed], stack.dn[0][:, observed])
    assert ((layers.provenance == Provenance.OBSERVED) == observed).all()
    assert (layers.source_date[observed] == stack.days[0]).all()


@stacks
@settings(max_examples=60, deadline=None)
def test_nodata_never_becomes_data_nor_data_nodata(seed: int, dates: int, temporal: bool) -> None:
    stack, layers, _ = make(seed, dates, temporal)
    outside = stack.classes[0] == PixelClass.NODATA
    assert (layers.data[:, outside] == 0).all() and (layers.provenance[outside] == Provenance.NODATA).all()
    empty = np.isin(layers.provenance, (Provenance.NODATA, Provenance.NOT_RECOVERABLE))
    assert ((layers.data == 0).all(axis=0) == empty).all() and (layers.data[:, ~empty] > 0).all()
    assert np.isfinite(layers.uncertainty[:, ~empty]).all()


@stacks
@settings(max_examples=60, deadline=None)
def test_every_synthetic_pixel_is_marked_with_its_origin(seed: int, dates: int, temporal: bool) -> None:
    stack, layers, by_model = make(seed, dates, temporal)
    hidden = is_hidden(stack.classes[0])
    marked = np.isin(layers.provenance, (*SYNTHETIC, Provenance.NOT_RECOVERABLE))
    assert (marked == hidden).all()
    assert ((layers.provenance == Provenance.OTHER_DATES) == (hidden & ~by_model)).all()
    assert (np.isfinite(layers.reference_weight) == np.isin(layers.provenance, SYNTHETIC[1:])).all()
    generated = by_model & hidden
    assert (layers.source_date[generated] == SOURCE_DATE_NODATA).all()
    thin = layers.provenance == Provenance.THIN_CLOUD_CORRECTED
    assert (stack.classes[0][thin] == PixelClass.THIN_CLOUD).all()


def test_noise_in_the_last_digits_of_w_is_not_stored() -> None:
    """Sums of a network may differ by some units in the last place from one machine to the other."""
    stack, model = invent(3, 1)
    step = np.float32(2**-10)
    exact = replace(model, reference_weight=np.rint(model.reference_weight / step) * step)
    noisy = replace(exact, reference_weight=exact.reference_weight * np.float32(1 + 5e-7))
    one, other = (assemble(stack, 0, None, each, max_spread=0.3) for each in (exact, noisy))
    assert np.array_equal(one.reference_weight, other.reference_weight, equal_nan=True)
    assert np.array_equal(one.provenance, other.provenance)
    assert np.isfinite(one.reference_weight).any()


def test_the_model_sees_the_best_known_scene() -> None:
    stack, _ = invent(7, 4)
    composite = fit_fused(stack, 0).apply(stack, 0)
    scene, rest = best_known(stack, 0, composite), unseen(stack, 0, composite)
    filled = is_hidden(stack.classes[0]) & ~rest
    assert np.array_equal(scene[:, filled], composite.reflectance[:, filled])
    assert np.array_equal(scene[:, rest], stack.reflectance(0)[:, rest])
    assert np.isnan(scene[:, stack.classes[0] == PixelClass.NODATA]).all()


def test_a_model_that_is_needed_must_have_run() -> None:
    stack, _ = invent(1, 1)
    with pytest.raises(InvalidInput, match="did not run"):
        assemble(stack, 0, None, None)


def test_half_widths_are_factor_times_scale_by_origin_and_band() -> None:
    stack, _ = invent(7, 4)
    composite = fit_fused(stack, 0).apply(stack, 0)
    need, count = unseen(stack, 0, composite), len(stack.bands)
    shape = stack.dn.shape[1:]
    model = ModelResult(
        np.full(shape, 0.2, np.float32), np.full(shape[1:], 0.4, np.float32), np.full(shape, 0.02, np.float32)
    )
    factors = Intervals(tuple(1.0 + n for n in range(count)), tuple(5.0 + n for n in range(count)))
    layers = assemble(stack, 0, composite, model, intervals=factors)
    filled = is_hidden(stack.classes[0]) & ~need
    for band in range(count):
        for found, wanted in (
            (layers.uncertainty[band, filled], (1 + band) * composite.spread[band, filled]),
            (layers.uncertainty[band, need], (5 + band) * np.hypot(0.02, 0.005 + 0.05 * 0.2)),
        ):
            beyond = found.astype(np.float64) - wanted
            assert (beyond > -1e-7).all() and (beyond < 2**-14).all(), "rounded up, by less than a step of the data"
            assert not np.fmod(found, 2**-14).any()
