from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stac.reflectance import Scaling, rescale_dn, to_product_dn, to_reflectance

EVERY_DN = np.arange(65536, dtype=np.uint16)


def test_every_product_number_survives_the_round_trip() -> None:
    assert np.array_equal(to_product_dn(to_reflectance(EVERY_DN)), EVERY_DN)


def test_nodata_is_nan_and_nothing_else_is() -> None:
    assert np.flatnonzero(np.isnan(to_reflectance(EVERY_DN))).tolist() == [0]


def test_the_common_case_changes_nothing() -> None:
    assert np.array_equal(rescale_dn(EVERY_DN, Scaling(1e-4, 0.0, 0)), EVERY_DN)


def test_the_offset_is_exact_and_data_stay_data() -> None:
    shifted = rescale_dn(EVERY_DN, Scaling(1e-4, -0.1, 0)).astype(int)
    assert shifted[0] == 0
    assert np.array_equal(shifted[1:], np.maximum(EVERY_DN[1:].astype(int) - 1000, 1))


def test_other_scales_and_types() -> None:
    found = rescale_dn(np.array([-9999, 0, 5000, 10000], np.int16), Scaling(2e-4, -0.2, -9999))
    assert found.tolist() == [0, 1, 8000, 18000]
    assert found.dtype == np.uint16


def test_landsat_fills_the_same_product() -> None:
    """Fill stays nodata; what Landsat stores below reflectance 0 (7273 and less) stays data; saturation is kept."""
    found = rescale_dn(np.array([0, 1, 7272, 7273, 10909, 43636, 65535], np.uint16), Scaling(0.0000275, -0.2, 0))
    assert found.tolist() == [0, 1, 1, 1, 1000, 10000, 16022]


def test_the_nearest_number_is_stored() -> None:
    assert rescale_dn(np.array([10, 13, 17], np.uint16), Scaling(2.5e-5, 0.0, 0)).tolist() == [2, 3, 4]
    assert to_product_dn(np.array([2.4e-4, 2.6e-4], np.float32)).tolist() == [2, 3]


@given(hnp.arrays(np.float32, 20, elements=st.floats(width=32, allow_nan=True, allow_infinity=True)))
def test_data_never_become_nodata(reflectance: np.ndarray) -> None:
    assert np.array_equal(to_product_dn(reflectance) == 0, ~np.isfinite(reflectance))


@given(
    hnp.arrays(np.uint16, 30),
    st.floats(1e-6, 1e-2),
    st.floats(-1, 1),
    st.integers(0, 65535),
)
def test_rescaled_data_never_become_nodata(dn: np.ndarray, scale: float, offset: float, nodata: int) -> None:
    assert np.array_equal(rescale_dn(dn, Scaling(scale, offset, nodata)) == 0, dn == nodata)
