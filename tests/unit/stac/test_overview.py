"""A cell thinned by a whole factor, read from the files that ship with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from rasterio.enums import Resampling

from stac.grid.cell import cell_of
from stac.load.stack import ReadOptions, overview_factor, read_stack

BANDS = ("blue", "nir")
AS_IS = ReadOptions(cloud_dilation_m=0, shadow_dilation_m=0)


def test_factor_one_is_the_stack_itself(twl: list[pystac.Item]) -> None:
    cell = cell_of(twl[0], "blue", (15.4, 45.6, 15.6, 45.8))
    plain = read_stack(twl, cell, BANDS)
    overview = read_stack(twl, cell, BANDS, ReadOptions().overview_of(cell, cell.pixels))
    assert np.array_equal(overview.dn, plain.dn) and np.array_equal(overview.classes, plain.classes)
    assert (overview.cell, overview.item_ids) == (cell, plain.item_ids)


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_every_kth_pixel_is_drawn(twl: list[pystac.Item], factor: int) -> None:
    """Without overviews in the file the pixels are those of the file; blocks over its edge are nodata."""
    item, cell = twl[1], cell_of(twl[1], "blue")
    thinned = AS_IS.overview_of(cell, -(-480 // factor) * -(-768 // factor))
    stack = read_stack([item], cell, ("blue",), thinned)
    assert stack.cell.geobox == cell.thinned(factor).geobox and stack.cell.gsd_m == 120 * factor
    with rasterio.open(item.assets["blue"].href) as source:
        whole = source.read(1)
    expected = whole[factor // 2 :: factor, factor // 2 :: factor]
    rows, columns = 480 // factor, 768 // factor
    assert np.array_equal(stack.dn[0, 0, :rows, :columns], expected[:rows, :columns])
    assert not stack.dn[0, 0, rows:].any() and not stack.dn[0, 0, :, columns:].any()
    assert stack.classes.shape[1:] == stack.cell.geobox.shape


def test_a_window_is_thinned_where_it_lies(twl: list[pystac.Item]) -> None:
    item = twl[1]
    window = cell_of(item, "blue").window(slice(101, 301), slice(57, 457))
    dn = read_stack([item], window, ("blue",), ReadOptions(overview=4)).dn[0, 0]
    with rasterio.open(item.assets["blue"].href) as source:
        assert np.array_equal(dn, source.read(1)[103:301:4, 59:457:4])


def test_the_factor_is_the_smallest_that_fits(twl: list[pystac.Item]) -> None:
    cell = cell_of(twl[0], "blue")
    for most in (1, 7, 1000, 92159, 92160, 368640, 10**9):
        factor = overview_factor(cell, most)
        assert cell.thinned(factor).pixels <= most
        assert factor == 1 or cell.thinned(factor - 1).pixels > most


def test_the_overviews_of_a_file_are_used(twl: list[pystac.Item], tmp_path: Path) -> None:
    item, cell = twl[1], cell_of(twl[1], "blue")
    with rasterio.open(item.assets["blue"].href) as source:
        profile, pixels = {**source.profile, "driver": "GTiff"}, source.read()
    with rasterio.open(tmp_path / "B02.tif", "w", **profile) as target:
        target.write(pixels)
        target.build_overviews([2], Resampling.average)
    plain = read_stack([item], cell, ("blue",), ReadOptions(overview=2)).dn[0, 0]
    item.assets["blue"].href = str(tmp_path / "B02.tif")
    averaged = read_stack([item], cell, ("blue",), ReadOptions(overview=2)).dn[0, 0]
    blocks = pixels[0].reshape(240, 2, 384, 2)
    inside = (blocks > 0).all(axis=(1, 3))
    assert np.abs(averaged - blocks.mean(axis=(1, 3)))[inside].max() <= 0.5
    assert (averaged != plain).mean() > 0.5
