from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pystac
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stac.errors import InvalidItem
from stac.reflectance import PRODUCT_SCALE, Scaling, rescale_dn, scaling_of, to_product_dn, to_reflectance

EVERY_DN = np.arange(65536, dtype=np.uint16)


def scaling(properties: Mapping[str, Any], **fields: Any) -> Scaling:
    item = pystac.Item("x", None, None, datetime(2023, 8, 10, tzinfo=UTC), dict(properties))
    return scaling_of(item, pystac.Asset("x.tif", extra_fields=fields))


EARTH_SEARCH = {"raster:bands": [{"scale": 0.0001, "offset": -0.1, "nodata": 0}]}


@pytest.mark.parametrize(
    ("properties", "fields", "offset"),
    [
        # Earth Search: already in the pixels, whatever is declared
        ({"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.09"}, EARTH_SEARCH, 0.0),
        # Earth Search, early 2022: baseline 04.00 and not applied
        ({"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "04.00"}, EARTH_SEARCH, -0.1),
        # Earth Search, old baseline
        (
            {"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "02.14"},
            {"raster:bands": [{"scale": 0.0001, "offset": 0, "nodata": 0}]},
            0.0,
        ),
        # STAC 1.1
        ({"s2:processing_baseline": "05.09"}, {"bands": [{"raster:scale": 0.0001, "raster:offset": -0.1}]}, -0.1),
        # Planetary Computer declares nothing
        ({"s2:processing_baseline": "05.09"}, {}, -0.1),
        ({"s2:processing_baseline": "03.01"}, {}, 0.0),
        ({}, {}, 0.0),
    ],
)
def test_the_offset_is_decided_per_item(properties: dict[str, Any], fields: dict[str, Any], offset: float) -> None:
    assert scaling(properties, **fields) == Scaling(PRODUCT_SCALE, offset, 0)


def test_the_sample_needs_no_offset(sample_items: list[pystac.Item]) -> None:
    """Its items declare -0.1 and say that it is applied; subtracting it again would darken the ground below 0."""
    declared = json.dumps(sample_items[0].assets["blue"].to_dict())
    assert '"offset": -0.1' in declared
    found = {scaling_of(item, item.assets[band]) for item in sample_items for band in ("blue", "nir")}
    assert found == {Scaling(PRODUCT_SCALE, 0.0, 0)}


@pytest.mark.parametrize("band", [{"scale": "x"}, {"scale": 0}, {"scale": -1}, {"offset": "nan"}, {"nodata": "inf"}])
def test_nonsense_is_refused(band: dict[str, Any]) -> None:
    with pytest.raises(InvalidItem, match="Item x declares"):
        scaling({}, **{"raster:bands": [band]})


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
