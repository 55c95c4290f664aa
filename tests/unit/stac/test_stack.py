"""Reading the dates of a cell: the pixels of the files, thinned, and drawn on other grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.windows import Window

from stac.errors import InvalidInput, InvalidItem
from stac.grid.cell import Cell, cell_of
from stac.grid.fixed import GridSpec
from stac.load.resampling import Interpolation, worst_class
from stac.load.stack import ReadOptions, overview_factor, read_stack
from stac.masks.classes import PixelClass, is_observed

BANDS = ("blue", "green", "red", "nir")
SMALL = (15.4, 45.6, 15.6, 45.8)
AS_IS = ReadOptions(cloud_dilation_m=0, shadow_dilation_m=0)


@pytest.fixture
def cell(twl: list[pystac.Item]) -> Cell:
    return cell_of(twl[0], "blue", SMALL)


def window_of(cell: Cell) -> Window:
    row, column = (int(n) for n in cell.id.rsplit("-r", 1)[1].split("h")[0].split("c"))
    return Window(column, row, cell.geobox.shape[1], cell.geobox.shape[0])


def test_pixels_equal_a_plain_window_bit_for_bit(twl: list[pystac.Item], cell: Cell) -> None:
    stack = read_stack(twl, cell, BANDS, AS_IS)
    assert stack.dn.shape == (5, 4, *cell.geobox.shape)
    for index, item in enumerate(twl):
        for number, band in enumerate(BANDS):
            with rasterio.open(item.assets[band].href) as source:
                assert np.array_equal(stack.dn[index, number], source.read(1, window=window_of(cell)))


def test_dates_bands_and_ids(twl: list[pystac.Item], cell: Cell) -> None:
    stack = read_stack(twl, cell, ("nir", "red"))
    assert stack.bands == ("nir", "red")
    assert stack.item_ids == tuple(item.id for item in twl)
    assert stack.days.tolist() == [19579, 19582, 19584, 19587, 19589]
    assert stack.index_of(twl[3].id) == 3
    fewer = stack.without([twl[1].id])
    assert fewer.item_ids == tuple(item.id for item in twl if item is not twl[1])
    assert np.array_equal(fewer.dn[1], stack.dn[2])
    with pytest.raises(InvalidInput, match="not in the stack"):
        fewer.index_of(twl[1].id)


def test_a_pixel_without_one_band_is_a_gap_inside_the_swath_and_nothing_outside_of_it(twl: list[pystac.Item]) -> None:
    stack = read_stack(twl, cell_of(twl[0], "blue"), BANDS)
    some, every = (stack.dn == 0).any(axis=1), (stack.dn == 0).all(axis=1)
    gaps = some & ~every
    assert gaps.any() and every.any()
    assert (stack.classes[every] == PixelClass.NODATA).all(), "the wedges beside the swaths"
    assert not is_observed(stack.classes[gaps]).any()
    assert (stack.classes[gaps] != PixelClass.NODATA).any(), "deep shadow that is clipped is hidden, and will be filled"
    reflectance = stack.reflectance(1)
    assert np.array_equal(np.isnan(reflectance), stack.dn[1] == 0)
    assert np.nanmin(reflectance) > 0


def test_a_scene_without_its_mask_is_refused_with_what_to_choose(twl: list[pystac.Item]) -> None:
    scene = twl[0].clone()
    scene.assets["Fmask"] = scene.assets.pop("scl")
    with pytest.raises(InvalidItem, match=r"no asset for band scl; it has .*Fmask.*choose another with --masks"):
        read_stack([scene], cell_of(scene, "blue"), BANDS)


def test_pixels_outside_the_file_are_nodata(twl: list[pystac.Item], sample_items: list[pystac.Item]) -> None:
    """The cell reaches 100 pixels beyond the file; the rest is still equal bit for bit."""
    native = cell_of(twl[0], "blue").geobox
    wide = Cell("wide", native.pad(100))
    dn = read_stack(twl[:1], wide, ("blue",)).dn[0, 0]
    with rasterio.open(twl[0].assets["blue"].href) as source:
        assert np.array_equal(dn[100:-100, 100:-100], source.read(1))
    dn[100:-100, 100:-100] = 0
    assert not dn.any()
    north = next(item for item in sample_items if "33TWM" in item.id)
    with pytest.raises(InvalidInput):
        read_stack([], wide, ("blue",))
    assert read_stack([north], Cell("far", native.translate_pix(0, 5000)), ("blue",)).dn.max() == 0


def test_another_grid_is_warped(twl: list[pystac.Item], sample_items: list[pystac.Item]) -> None:
    """33TWM lies half a pixel off 33TWL's grid; along their border its pixels are interpolated, masks are not."""
    north = next(item for item in sample_items if "33TWM_20230815" in item.id)
    border = Cell("border", cell_of(twl[0], "blue").geobox.translate_pix(0, -40)[:40])
    stack = read_stack([north], border, ("blue",), AS_IS)
    with rasterio.open(north.assets["blue"].href) as source:
        nearby = source.read(1, window=Window(0, source.height - 40, source.width, 40)).astype(int)
    whole = (nearby[:-1] > 0) & (nearby[1:] > 0)
    assert whole.mean() > 0.9
    middle = (nearby[:-1] + nearby[1:]) / 2
    assert np.abs(stack.dn[0, 0, :-1] - middle)[whole].max() <= 1
    assert set(np.unique(stack.classes)) <= {int(c) for c in PixelClass}


def test_a_raster_of_floats_is_refused(twl: list[pystac.Item], cell: Cell, tmp_path: Path) -> None:
    with rasterio.open(twl[0].assets["blue"].href) as source:
        profile = {**source.profile, "dtype": "float32", "driver": "GTiff", "compress": None, "predictor": 1}
        pixels = source.read().astype(np.float32)
    with rasterio.open(tmp_path / "f.tif", "w", **profile) as target:
        target.write(pixels)
    twl[0].assets["blue"].href = str(tmp_path / "f.tif")
    del twl[0].assets["blue"].extra_fields["raster:bands"][0]["data_type"]
    with pytest.raises(InvalidItem, match="holds float32"):
        read_stack(twl[:1], cell, BANDS)


@pytest.mark.parametrize("reach", [120.0, 500.0])
def test_the_mask_of_a_window_is_the_window_of_the_mask(twl: list[pystac.Item], cell: Cell, reach: float) -> None:
    options = ReadOptions(cloud_dilation_m=reach, shadow_dilation_m=reach / 2)
    part, whole = (read_stack(twl, c, ("blue",), options).classes for c in (cell, cell_of(twl[0], "blue")))
    window = window_of(cell)
    rows, columns = slice(window.row_off, None), slice(window.col_off, None)
    expected = whole[:, rows, columns][:, : part.shape[1], : part.shape[2]]
    np.testing.assert_array_equal(part, expected)
    # At the edge of the file, too, the whole cell keeps its shape.
    assert whole.shape[1:] == cell_of(twl[0], "blue").geobox.shape


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


INSIDE = (15.6, 45.75, 15.61, 45.76)


@pytest.mark.parametrize("interpolation", list(Interpolation))
def test_a_window_of_a_warped_cell_has_the_pixels_of_the_whole(
    twl: list[pystac.Item], interpolation: Interpolation
) -> None:
    (cell,) = GridSpec(100, 400, crs=3035).cells(INSIDE)
    options = ReadOptions(0, 0, interpolation=interpolation)
    whole = read_stack(twl[:1], cell, ("blue",), options)
    assert (whole.dn > 0).mean() > 0.5
    for rows, columns in ((slice(0, 100), slice(0, 400)), (slice(131, 333), slice(77, 299))):
        part = read_stack(twl[:1], cell.window(rows, columns), ("blue",), options)
        assert np.array_equal(part.dn, whole.dn[:, :, rows, columns])
        assert np.array_equal(part.classes, whole.classes[:, rows, columns])


def test_bilinear_and_cubic_differ(twl: list[pystac.Item]) -> None:
    (cell,) = GridSpec(60, 128).cells(INSIDE)
    linear, cubic = (
        read_stack(twl[:1], cell, ("blue",), ReadOptions(0, 0, interpolation=how)).dn for how in Interpolation
    )
    assert (linear != cubic).mean() > 0.5 and np.abs(linear.astype(int) - cubic).mean() < 100


def test_a_coarser_grid_gets_means_and_the_worst_class(twl: list[pystac.Item]) -> None:
    """Cells of 360 m that hold 3 by 3 pixels each."""
    spec = GridSpec(360, 64, origin_m=(517620 % 360, 5100000 % 360))
    (cell,) = spec.cells(INSIDE)
    stack = read_stack(twl[:1], cell, ("blue",), AS_IS)
    fine = read_stack(twl[:1], cell.refined(3), ("blue",), AS_IS)
    blocks = fine.dn[0, 0].reshape(64, 3, 64, 3).astype(float)
    full = (blocks > 0).all(axis=(1, 3)) & (stack.dn[0, 0] > 0)
    assert full.mean() > 0.5
    assert np.abs(stack.dn[0, 0] - blocks.mean(axis=(1, 3)))[full].max() <= 0.51
    classes = fine.classes[0].reshape(64, 3, 64, 3)
    cloudy = (classes == PixelClass.CLOUD).any(axis=(1, 3)) & full
    assert cloudy.any() and (stack.classes[0][cloudy] == PixelClass.CLOUD).all()
    clear = (classes == PixelClass.CLEAR).all(axis=(1, 3))
    assert clear.any() and (stack.classes[0][clear] == PixelClass.CLEAR).all()


def test_the_worst_class_wins_without_ties() -> None:
    n, c, t, k, s, w, d = (int(p) for p in PixelClass)
    blocks = np.array([[c, c, n, n, n, n, w, w], [c, k, n, c, c, c, w, c]], np.uint8)
    assert worst_class(blocks, 2).tolist() == [[k, n, c, w]]
    assert worst_class(np.array([[s, t], [c, c]], np.uint8), 2).tolist() == [[t]]
    assert worst_class(np.array([[s, n], [n, n]], np.uint8), 2).tolist() == [[s]]
    assert worst_class(np.array([[d, c], [c, n]], np.uint8), 2).tolist() == [[d]]
    assert worst_class(np.array([[d, s], [c, n]], np.uint8), 2).tolist() == [[s]]
    assert worst_class(blocks, 1) is blocks
