from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from rasterio.windows import Window

from stac.errors import InvalidInput, InvalidItem, UnreadableAsset
from stac.grid.cell import Cell, cell_of
from stac.load.stack import ReadOptions, read_stack
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


def test_dilation_hides_more(twl: list[pystac.Item], cell: Cell) -> None:
    plain = read_stack(twl[:1], cell, ("blue",), AS_IS)
    grown = read_stack(twl[:1], cell, ("blue",), ReadOptions(cloud_dilation_m=240, shadow_dilation_m=240))
    assert (grown.classes == PixelClass.CLEAR).sum() < (plain.classes == PixelClass.CLEAR).sum()


def test_progress_is_reported(twl: list[pystac.Item], cell: Cell) -> None:
    told: list[str] = []
    read_stack(twl, cell, ("blue",), on_read=told.append)
    assert told == [item.id for item in twl]


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


def test_a_missing_asset_is_named(twl: list[pystac.Item], cell: Cell) -> None:
    del twl[2].assets["red"]
    with pytest.raises(InvalidItem, match=rf"{twl[2].id} has no asset for band red"):
        read_stack(twl, cell, BANDS)


def test_a_missing_mask_is_named(twl: list[pystac.Item], cell: Cell) -> None:
    del twl[0].assets["scl"]
    with pytest.raises(InvalidItem, match="no asset for band scl"):
        read_stack(twl, cell, BANDS)


def truncated(item: pystac.Item, folder: Path) -> None:
    target = folder / "B02.tif"
    shutil.copy(item.assets["blue"].href, target)
    with target.open("r+b") as file:
        file.truncate(target.stat().st_size // 3)
    item.assets["blue"].href = str(target)


def test_a_truncated_target_is_an_error(twl: list[pystac.Item], cell: Cell, tmp_path: Path) -> None:
    truncated(twl[0], tmp_path)
    with pytest.raises(UnreadableAsset, match=rf"{twl[0].id}, asset blue: .*B02\.tif cannot be read"):
        read_stack(twl, cell, BANDS, required=[twl[0].id])


def test_a_truncated_source_date_is_dropped_with_its_reason(twl: list[pystac.Item], cell: Cell, tmp_path: Path) -> None:
    truncated(twl[0], tmp_path)
    del twl[1].assets["nir"]
    stack = read_stack(twl, cell, BANDS, required=[twl[3].id])
    assert stack.item_ids == tuple(item.id for item in twl[2:])
    assert [twl[0].id in reason or twl[1].id in reason for reason in stack.dropped] == [True, True]


def test_nothing_left_is_an_error(twl: list[pystac.Item], cell: Cell, tmp_path: Path) -> None:
    truncated(twl[0], tmp_path)
    with pytest.raises(InvalidInput, match="No scene of cell"):
        read_stack(twl[:1], cell, BANDS, required=[])


def test_formats_that_name_other_files_are_refused(twl: list[pystac.Item], cell: Cell, tmp_path: Path) -> None:
    vrt = tmp_path / "evil.vrt"
    with rasterio.open(twl[0].assets["blue"].href) as source, rasterio.vrt.WarpedVRT(source) as warped:
        rasterio.shutil.copy(warped, vrt, driver="VRT")
    twl[0].assets["blue"].href = str(vrt)
    with pytest.raises(UnreadableAsset, match="not recognized as being in a supported file format"):
        read_stack(twl[:1], cell, BANDS)


def test_a_raster_of_floats_is_refused(twl: list[pystac.Item], cell: Cell, tmp_path: Path) -> None:
    with rasterio.open(twl[0].assets["blue"].href) as source:
        profile = {**source.profile, "dtype": "float32", "driver": "GTiff", "compress": None, "predictor": 1}
        pixels = source.read().astype(np.float32)
    with rasterio.open(tmp_path / "f.tif", "w", **profile) as target:
        target.write(pixels)
    twl[0].assets["blue"].href = str(tmp_path / "f.tif")
    with pytest.raises(InvalidItem, match="declares data_type uint16, the file has float32"):
        read_stack(twl[:1], cell, BANDS)
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
