"""Wrong flags on real pixels: they are caught, and true ones are not."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from stac.errors import InvalidItem
from stac.grid.cell import cell_of
from stac.load.scale_check import BandSample, RadiometryCheck, find_contradiction
from stac.load.stack import ReadOptions, read_stack
from stac.reflectance import Scaling

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


def test_the_order_of_pixels_does_not_matter(sample_items: list[pystac.Item]) -> None:
    one = samples(sample_items[0], SHIFTED)
    other = [BandSample(s.band, np.sort(s.dn, axis=None), s.scaling) for s in one]
    assert find_contradiction(one, offset_at_stake=True) == find_contradiction(other, offset_at_stake=True)


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
