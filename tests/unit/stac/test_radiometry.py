"""Scale and offset: the table that decides, wrong flags on real pixels, and digital numbers of the product."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stac.errors import InvalidItem
from stac.grid.cell import cell_of
from stac.load.scale_check import BandSample, RadiometryCheck, find_contradiction
from stac.load.scaling import Decision, decide
from stac.load.stack import ReadOptions, read_stack
from stac.reflectance import Scaling, rescale_dn, to_product_dn, to_reflectance

ITEMS = Path(__file__).parents[2] / "data" / "earth-search-items"
OLD = "older than 04.00"
SUBTRACTED = "has been subtracted from the pixels"
NOT_SUBTRACTED = "was not subtracted"

#: Every archived item: baseline, flag, and what follows.
EXPECTED = {
    "S2A_33TWN_20161202_0_L2A": ("00.01", False, 0.0, OLD),
    "S2A_33TWN_20171005_0_L2A": ("00.01", False, 0.0, OLD),
    "S2B_33TWN_20180521_1_L2A": ("02.07", False, 0.0, OLD),
    "S2B_33TWN_20180806_0_L2A": ("00.01", False, 0.0, OLD),
    "S2B_33TWN_20181005_0_L2A": ("02.08", False, 0.0, OLD),
    "S2B_33TWN_20181104_0_L2A": ("02.09", False, 0.0, OLD),
    "S2A_33TWN_20181119_0_L2A": ("02.10", False, 0.0, OLD),
    "S2B_33TWN_20190503_0_L2A": ("02.11", False, 0.0, OLD),
    "S2A_33TWN_20190707_1_L2A": ("02.12", False, 0.0, OLD),
    "S2A_33TWN_20200202_0_L2A": ("02.13", False, 0.0, OLD),
    "S2A_33TWN_20210328_0_L2A": ("02.14", False, 0.0, OLD),
    "S2A_33TWN_20210629_0_L2A": ("03.00", False, 0.0, OLD),
    # A week before the change.
    "S2A_33TWN_20220122_0_L2A": ("03.01", False, 0.0, OLD),
    # The two early scenes of the new baseline: both declare -0.1, one is subtracted already, the other is not.
    "S2B_33TWN_20220130_0_L2A": ("04.00", True, 0.0, SUBTRACTED),
    "S2B_33TWN_20220226_0_L2A": ("04.00", False, -0.1, NOT_SUBTRACTED),
    "S2A_32TMS_20221207_0_L2A": ("05.09", True, 0.0, SUBTRACTED),
    "S2A_12RWT_20240106_0_L2A": ("05.10", True, 0.0, SUBTRACTED),
}
REFLECTIVE = ("coastal", "blue", "green", "red", "nir", "nir08", "swir16", "swir22")


@pytest.mark.parametrize("path", sorted(ITEMS.glob("*.json")), ids=lambda p: p.stem)
def test_every_archived_item_is_decided_and_explained(path: Path) -> None:
    item = pystac.Item.from_file(str(path))
    baseline, flag, offset, reason = EXPECTED[item.id]
    assert item.properties["s2:processing_baseline"] == baseline
    assert item.properties["earthsearch:boa_offset_applied"] is flag
    decisions = {decide(item, item.assets[band]) for band in REFLECTIVE}
    assert len(decisions) == 1, "all bands of a scene alike"
    decision = decisions.pop()
    assert (decision.scale, decision.offset, decision.nodata) == (0.0001, offset, 0)
    assert reason in decision.reason
    assert baseline in decision.reason


def test_no_archived_item_is_left_out() -> None:
    assert {path.stem for path in ITEMS.glob("*.json")} == set(EXPECTED)


def decided(
    properties: Mapping[str, Any],
    fields: Mapping[str, Any] | None = None,
    *,
    collection: str = "sentinel-2-l2a",
    item_id: str = "x",
    href: str = "x.tif",
) -> Decision:
    item = pystac.Item(item_id, None, None, datetime(2023, 8, 10, tzinfo=UTC), dict(properties), collection=collection)
    asset = pystac.Asset(href, extra_fields=dict(fields or {}))
    item.add_asset("red", asset)
    return decide(item, asset)


OFFSET = {"raster:bands": [{"scale": 0.0001, "offset": -0.1, "nodata": 0}]}
NO_OFFSET = {"raster:bands": [{"scale": 0.0001, "offset": 0, "nodata": 0}]}
AZURE = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/33/T/WL/B04_10m.tif"


@pytest.mark.parametrize(
    ("properties", "fields", "more", "offset"),
    [
        # Earth Search, Collection 1: as ESA delivers it, offset declared
        (
            {"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "05.00"},
            OFFSET,
            {"collection": "sentinel-2-c1-l2a"},
            -0.1,
        ),
        # Earth Search, version 0: the flag had another name
        ({"sentinel:boa_offset_applied": True, "sentinel:processing_baseline": "04.00"}, {}, {}, 0.0),
        # Planetary Computer declares nothing
        ({"s2:processing_baseline": "05.09"}, {}, {"href": AZURE}, -0.1),
        ({"s2:processing_baseline": "03.01"}, {}, {"href": AZURE}, 0.0),
        # Copernicus Data Space: STAC 1.1, baseline as the version of the processing
        ({"processing:version": "05.11"}, {"bands": [{"raster:scale": 1e-4, "raster:offset": -0.1}]}, {}, -0.1),
        # ... or only in the product's name
        ({}, {}, {"item_id": "S2B_MSIL2A_20250302T095029_N0511_R079_T33UXP_20250302T104753"}, -0.1),
        ({}, {}, {"item_id": "S2B_MSIL2A_20190302T095029_N0211_R079_T33UXP_20190302T104753"}, 0.0),
        # made by hand: the baseline says nothing
        ({"s2:processing_baseline": "99.99"}, OFFSET, {}, -0.1),
        # harmonised by the service, whatever the baseline
        ({"s2:processing_baseline": "05.09"}, {}, {"collection": "sentinel-2-l2a-harmonised"}, 0.0),
        ({"s2:processing_baseline": "05.09"}, NO_OFFSET, {}, 0.0),
        # Level-1C has the same offset (RADIO_ADD_OFFSET) since the same baseline
        ({"s2:processing_baseline": "05.09"}, {}, {"collection": "sentinel-2-l1c"}, -0.1),
        # nothing known
        ({}, {}, {}, 0.0),
    ],
)
def test_archives_differ(properties: dict[str, Any], fields: dict[str, Any], more: Any, offset: float) -> None:
    decision = decided(properties, fields, **more)
    assert (decision.scale, decision.offset, decision.nodata) == (1e-4, offset, 0)
    assert decision.reason.endswith(".")
    assert "{" not in decision.reason


LANDSAT = {"landsat:collection_number": "02", "landsat:correction": "L2SP"}


@pytest.mark.parametrize("fields", [{}, {"raster:bands": [{"scale": 2.75e-05, "offset": -0.2, "nodata": 0}]}])
def test_landsat_collection_2(fields: dict[str, Any]) -> None:
    decision = decided(LANDSAT, fields, collection="landsat-c2-l2")
    assert (decision.scale, decision.offset, decision.nodata) == (0.0000275, -0.2, 0)


def test_other_sensors_are_taken_at_their_word() -> None:
    found = decided({}, {"raster:bands": [{"scale": 0.0002, "offset": 0.01, "nodata": 65535}]}, collection="planet")
    assert (found.scale, found.offset, found.nodata) == (0.0002, 0.01, 65535)


@pytest.mark.parametrize(
    ("properties", "fields", "sentence"),
    [
        ({}, {"raster:bands": [{"scale": "x"}]}, "not numbers"),
        ({}, {"raster:bands": [{"nodata": "inf"}]}, "not numbers"),
        ({}, {"raster:bands": [{"scale": 0}]}, "scale 0"),
        ({}, {"raster:bands": [{"scale": -1}]}, "scale -1"),
        ({}, {"raster:bands": [{"scale": 1, "offset": -0.1}]}, "one step would be that much"),
        ({}, {"raster:bands": [{"offset": "nan"}]}, "offset nan"),
        ({}, {"raster:bands": [{"scale": 0.0001, "offset": -1000}]}, "in digital numbers"),
        ({"earthsearch:boa_offset_applied": "yes"}, {}, "expected true or false"),
        # flag, baseline and declaration cannot all be true
        ({"s2:processing_baseline": "02.14"}, OFFSET, "older than 04.00"),
        ({"s2:processing_baseline": "04.00", "earthsearch:boa_offset_applied": False}, NO_OFFSET, "declares offset 0"),
        ({"earthsearch:boa_offset_applied": True}, {"raster:bands": [{"scale": 0.001}]}, "with 0.0001"),
        # a thermal band of Landsat is no reflectance
        (LANDSAT, {"raster:bands": [{"scale": 0.00341802, "offset": 149.0}]}, "in digital numbers"),
        (LANDSAT, {"raster:bands": [{"scale": 0.0001, "offset": 0}]}, "surface reflectance of Landsat"),
    ],
)
def test_lies_are_refused(properties: dict[str, Any], fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidItem, match=rf"Item x .*{sentence}"):
        decided(properties, fields)


def test_the_sample_needs_no_offset(sample_items: list[pystac.Item]) -> None:
    """Its items declare -0.1 and say that it is applied; subtracting it again would darken the ground below 0."""
    declared = json.dumps(sample_items[0].assets["blue"].to_dict())
    assert '"offset": -0.1' in declared
    found = {decide(item, item.assets[band]).offset for item in sample_items for band in ("blue", "nir")}
    assert found == {0.0}


def test_only_scenes_that_could_hold_an_offset_are_suspected() -> None:
    at_stake = set()
    for path in ITEMS.glob("*.json"):
        item = pystac.Item.from_file(str(path))
        if decide(item, item.assets["red"]).offset_at_stake:
            at_stake.add(item.id)
    assert at_stake == {name for name, (baseline, *_) in EXPECTED.items() if baseline >= "04.00"}


BANDS = ("blue", "green", "red", "nir")
SMALL = (15.4, 45.6, 15.42, 45.62)
PLAIN, SHIFTED = Scaling(1e-4, 0.0, 0), Scaling(1e-4, -0.1, 0)


def samples(item: pystac.Item, scaling: Scaling, added: int = 0) -> list[BandSample]:
    """Pixels of a sample scene; `added` is what its archive would not have subtracted."""
    found = []
    for band in BANDS:
        with rasterio.open(item.assets[band].href) as source:
            dn = source.read(1).astype(np.int64)
        found.append(BandSample(band, np.where(dn == 0, 0, dn + added), scaling))
    return found


def test_true_scenes_pass(sample_items: list[pystac.Item]) -> None:
    for item in sample_items:
        assert find_contradiction(samples(item, PLAIN), offset_at_stake=True) is None
        assert find_contradiction(samples(item, SHIFTED, 1000), offset_at_stake=True) is None


def test_an_offset_subtracted_twice_is_found_in_every_scene(sample_items: list[pystac.Item]) -> None:
    for item in sample_items:
        found = find_contradiction(samples(item, SHIFTED), offset_at_stake=True)
        assert found is not None, item.id
        assert "in the pixels already" in found


def test_an_offset_never_subtracted_is_found_in_every_scene(sample_items: list[pystac.Item]) -> None:
    for item in sample_items:
        found = find_contradiction(samples(item, PLAIN, 1000), offset_at_stake=True)
        assert found is not None, item.id
        assert "not to be subtracted yet" in found


@pytest.mark.parametrize(
    ("reflectance", "what"),
    [
        ((0.11, 0.16, 0.22, 0.28), "desert"),
        ((0.75, 0.74, 0.72, 0.6), "snow"),
        ((0.5, 0.5, 0.5, 0.52), "closed cloud"),
        ((0.03, 0.025, 0.01, 0.001), "open sea"),
    ],
)
def test_bright_or_dark_scenes_without_a_signature_pass(reflectance: tuple[float, ...], what: str) -> None:
    random = np.random.default_rng(0)
    for scaling in (PLAIN, SHIFTED):
        bands = [
            BandSample(b, np.rint((random.normal(r, 0.01, 20_000) - scaling.offset) * 1e4).clip(1), scaling)
            for b, r in zip(BANDS, reflectance, strict=True)
        ]
        assert find_contradiction(bands, offset_at_stake=True) is None, what


def test_visible_bands_alone_do_not_show_a_missing_subtraction(sample_items: list[pystac.Item]) -> None:
    """Haze lifts them all; the near infrared is needed. An inconclusive scene passes."""
    visible = samples(sample_items[0], PLAIN, 1000)[:3]
    assert find_contradiction(visible, offset_at_stake=True) is None


def test_an_old_baseline_is_not_suspected(sample_items: list[pystac.Item]) -> None:
    assert find_contradiction(samples(sample_items[0], PLAIN, 1000), offset_at_stake=False) is None


@pytest.mark.parametrize("scale", [1e-2, 1e-7])
def test_a_wrong_scale_is_found(sample_items: list[pystac.Item], scale: float) -> None:
    cloudless = next(item for item in sample_items if "33TWL_20230815" in item.id)
    found = find_contradiction(samples(cloudless, Scaling(scale, 0.0, 0)), offset_at_stake=False)
    assert found is not None
    assert "wrong scale" in found


@given(st.integers(0, 999))
def test_few_pixels_say_nothing(count: int) -> None:
    dn = np.full(count, 2, np.uint16)
    assert find_contradiction([BandSample("nir", dn, SHIFTED)] * 2, offset_at_stake=True) is None


def wrong_flag(item: pystac.Item) -> pystac.Item:
    item.properties["earthsearch:boa_offset_applied"] = False
    return item


def test_a_wrong_flag_makes_the_scene_invalid(twl: list[pystac.Item]) -> None:
    cell = cell_of(twl[0], "blue", SMALL)
    with pytest.raises(InvalidItem, match=rf"Item {twl[0].id}: with offset -0.1, \d+% of band red .*warn"):
        read_stack([wrong_flag(twl[0])], cell, BANDS)


def test_a_source_date_with_a_wrong_flag_is_left_out(twl: list[pystac.Item]) -> None:
    wrong_flag(twl[1])
    stack = read_stack(twl[:3], cell_of(twl[0], "blue", SMALL), BANDS, required=[twl[0].id])
    assert stack.item_ids == (twl[0].id, twl[2].id)
    assert "in the pixels already" in stack.dropped[0]


def test_warn_uses_the_scene_and_says_so(twl: list[pystac.Item], caplog: pytest.LogCaptureFixture) -> None:
    cell = cell_of(twl[0], "blue", SMALL)
    with caplog.at_level(logging.WARNING, "unveil"):
        stack = read_stack([wrong_flag(twl[0])], cell, BANDS, ReadOptions(radiometry_check=RadiometryCheck.WARN))
    assert twl[0].id in caplog.text
    plain = read_stack([wrong_flag(twl[0])], cell, BANDS, ReadOptions(radiometry_check=RadiometryCheck.OFF))
    assert np.array_equal(stack.dn, plain.dn)


def test_pixels_that_keep_the_offset_are_refused(twl: list[pystac.Item], tmp_path: Path) -> None:
    """The flag says subtracted, the pixels say not."""
    for band in BANDS:
        with rasterio.open(twl[0].assets[band].href) as source:
            profile, dn = source.profile, source.read()
        profile.update(driver="GTiff")
        with rasterio.open(tmp_path / f"{band}.tif", "w", **profile) as target:
            target.write(np.where(dn == 0, 0, dn + 1000).astype(np.uint16))
        twl[0].assets[band].href = str(tmp_path / f"{band}.tif")
    with pytest.raises(InvalidItem, match=rf"Item {twl[0].id}: the darkest pixels of all bands"):
        read_stack(twl[:1], cell_of(twl[0], "blue", SMALL), BANDS)


def test_two_values_of_nodata_are_refused_and_one_is_enough(twl: list[pystac.Item], tmp_path: Path) -> None:
    """The item declares 0, the file 65535; without the item's, the file's counts."""
    with rasterio.open(twl[0].assets["blue"].href) as source:
        profile, dn = source.profile, source.read()
    profile.update(driver="GTiff", nodata=65535)
    dn[:, :, :7] = 65535
    with rasterio.open(tmp_path / "b.tif", "w", **profile) as target:
        target.write(dn)
    twl[0].assets["blue"].href = str(tmp_path / "b.tif")
    with pytest.raises(InvalidItem, match=r"declares nodata 0, its file has 65535"):
        read_stack(twl[:1], cell_of(twl[0], "blue"), ("blue",))
    del twl[0].assets["blue"].extra_fields["raster:bands"][0]["nodata"]
    found = read_stack(twl[:1], cell_of(twl[0], "blue"), ("blue",)).dn[0, 0]
    assert not found[:, :7].any()
    assert np.array_equal(found[:, 7:], np.maximum(dn[0, :, 7:], 1))


def test_nodata_that_the_file_cannot_hold_is_refused(twl: list[pystac.Item], tmp_path: Path) -> None:
    with rasterio.open(twl[0].assets["blue"].href) as source:
        profile, dn = {**source.profile, "driver": "GTiff", "nodata": None}, source.read()
    with rasterio.open(tmp_path / "b.tif", "w", **profile) as target:
        target.write(dn)
    twl[0].assets["blue"].href = str(tmp_path / "b.tif")
    twl[0].assets["blue"].extra_fields["raster:bands"][0]["nodata"] = -9999
    with pytest.raises(InvalidItem, match=r"asset blue holds uint16, which cannot be the declared nodata -9999"):
        read_stack(twl[:1], cell_of(twl[0], "blue", SMALL), ("blue",))


EVERY_DN = np.arange(65536, dtype=np.uint16)


def test_every_product_number_survives_the_round_trip() -> None:
    assert np.array_equal(to_product_dn(to_reflectance(EVERY_DN)), EVERY_DN)


def test_nodata_is_nan_and_nothing_else_is() -> None:
    assert np.flatnonzero(np.isnan(to_reflectance(EVERY_DN))).tolist() == [0]


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
