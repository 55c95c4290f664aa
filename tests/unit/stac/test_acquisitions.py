"""Dates of several scenes: which scenes belong together, and from which of them every pixel is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.warp import Resampling, calculate_default_transform, reproject

from stac.errors import InvalidInput, InvalidItem
from stac.grid.cell import Cell, cell_of
from stac.grid.fixed import GridSpec
from stac.load.stack import ReadOptions, read_stack
from stac.masks.classes import PixelClass
from stac.search.acquisitions import Acquisition, group_passes

AS_IS = ReadOptions(cloud_dilation_m=0, shadow_dilation_m=0)
#: The pixels of 33TWL: 120 m, from 517 620 m.
ALIGNED = GridSpec(120, 200, origin_m=(60, 0))


@pytest.fixture
def twm(sample_items: list[pystac.Item]) -> list[pystac.Item]:
    return [item.clone() for item in sample_items if "33TWM" in item.id]


@pytest.fixture
def border(twl: list[pystac.Item], twm: list[pystac.Item]) -> Cell:
    """A cell of the fixed grid that lies on both tiles, and partly on each alone."""
    (cell,) = ALIGNED.cells((15.75, 45.99, 15.76, 46.0))
    return cell


def scene(name: str, at: datetime, platform: str = "sentinel-2a") -> pystac.Item:
    return pystac.Item(name, None, None, at, {"platform": platform})


def test_scenes_of_a_pass_are_one_acquisition_also_over_midnight() -> None:
    late = datetime(2023, 6, 2, 23, 59, 50, tzinfo=UTC)
    items = [
        scene("b", late + timedelta(seconds=20)),
        scene("a", late),
        scene("next-pass", late + timedelta(minutes=98)),
        scene("other", late + timedelta(seconds=5), "sentinel-2b"),
    ]
    passes = group_passes(items)
    assert [date.item_ids for date in passes] == [("a", "b"), ("other",), ("next-pass",)]
    assert passes[0].id == "sentinel-2a_20230602T235950" and passes[1].id == "other"
    assert passes[0].day == passes[1].day == 19510 and passes[2].day == 19511
    assert [date.item_ids for date in group_passes(reversed(items))] == [date.item_ids for date in passes]


def test_the_sample_has_five_passes_of_two_tiles(sample_items: list[pystac.Item]) -> None:
    passes = group_passes(sample_items)
    assert len(passes) == 5 and all(len(date.items) == 2 for date in passes)
    with pytest.raises(InvalidItem, match="needs one scene"):
        Acquisition.of([])


def test_a_mosaic_takes_every_pixel_from_the_first_scene_with_data(
    twl: list[pystac.Item], twm: list[pystac.Item], border: Cell
) -> None:
    for low, high in zip(twl, twm, strict=True):
        both = read_stack([Acquisition.of([low, high])], border, ("blue", "nir"), AS_IS)
        one, other = (read_stack([item], border, ("blue", "nir"), AS_IS) for item in (low, high))
        seen = one.classes[0] != PixelClass.NODATA
        assert 0.1 < seen.mean() < 0.9
        # A gap of the first is filled by the other where that has all bands; else it is left as it is.
        gap, whole = (one.dn[0] == 0).any(axis=0), (other.dn[0] > 0).all(axis=0)
        filled = ~seen & (other.classes[0] != PixelClass.NODATA) | gap & whole
        assert filled.mean() > 0.1
        assert np.array_equal(both.dn[0], np.where(filled, other.dn[0], one.dn[0]))
        assert np.array_equal(both.classes[0], np.where(filled, other.classes[0], one.classes[0]))
        assert (both.classes != PixelClass.NODATA).sum() > (one.classes != PixelClass.NODATA).sum()
        assert both.sources == ((low.id, high.id),) and len(both.item_ids) == 1
        assert both.days[0] == one.days[0]


def test_pixels_of_the_fixed_grid_are_the_source_s_where_the_grids_coincide(
    twl: list[pystac.Item], twm: list[pystac.Item], border: Cell
) -> None:
    stack = read_stack([Acquisition.of([twl[1], twm[1]])], border, ("blue",), AS_IS)
    with rasterio.open(twl[1].assets["blue"].href) as source:
        whole = source.read(1)
    column, row = (round(n) for n in cell_of(twl[1], "blue").geobox.wld2pix(*border.geobox.affine @ (0, 0)))
    height, width = border.geobox.shape
    top = max(0, -row)
    expected = whole[row + top : row + height, column : column + width]
    found = stack.dn[0, 0, top : top + expected.shape[0], : expected.shape[1]]
    assert expected.size > 10_000 and (expected > 0).mean() > 0.9
    assert np.array_equal(found[expected > 0], expected[expected > 0])


def test_the_order_decides_and_a_broken_neighbour_is_reported(
    twl: list[pystac.Item], twm: list[pystac.Item], border: Cell
) -> None:
    date = Acquisition.of([twl[1], twm[1]])
    turned = read_stack([date.drawn_by(lambda i: -ord(i.id[8]))], border, ("blue",), AS_IS)
    assert turned.sources == ((twm[1].id, twl[1].id),)
    north = read_stack([twm[1]], border, ("blue",), AS_IS)
    seen = north.classes[0] != PixelClass.NODATA
    assert np.array_equal(turned.dn[0][:, seen], north.dn[0][:, seen])
    del twm[1].assets["blue"]
    with pytest.raises(InvalidItem, match=twm[1].id):
        read_stack([date], border, ("blue",), AS_IS)
    both = read_stack([date, Acquisition.of([twl[2], twm[2]])], border, ("blue",), AS_IS, required=[])
    assert len(both.item_ids) == 1 and twm[1].id in both.dropped[0]
    # Where the first scene has everything its neighbour is not even opened.
    inside = cell_of(twl[1], "blue", (15.9, 45.75, 15.95, 45.8))
    assert (read_stack([date], inside, ("blue",), AS_IS).dn > 0).all()
    with pytest.raises(InvalidInput):
        read_stack([date], border, ("blue",), AS_IS, required=[])


def test_two_zones_share_the_ground_between_them(twl: list[pystac.Item], tmp_path: Path) -> None:
    """A scene moved onto the border of zones 33 and 34, once in each projection: every own pixel is read once."""
    east, west = (moved(twl[1], tmp_path, zone) for zone in (34, 33))
    cells = GridSpec(240, 64).cells((17.9, 45.7, 18.1, 45.9))
    assert {cell.geobox.crs.epsg for cell in cells} == {32633, 32634}
    date = Acquisition.of([east, west])
    for cell in cells:
        first = date.drawn_by(lambda i, own=cell.geobox.crs.epsg: i.properties["proj:code"] != f"EPSG:{own}")
        stack = read_stack([first], cell, ("blue",), AS_IS)
        foreign = cell.foreign()
        assert foreign is not None
        assert not stack.dn[0, 0, foreign].any() and (stack.classes[0, foreign] == PixelClass.NODATA).all()
        assert (stack.dn[0, 0, ~foreign] > 0).mean() > 0.95


def moved(item: pystac.Item, folder: Path, zone: int) -> pystac.Item:
    """Return a copy of a scene shifted to the east until it lies over 18 degrees, in the projection of a zone."""
    copy, crs = item.clone(), CRS.from_epsg(32600 + zone)
    copy.id, copy.properties["proj:code"] = f"{item.id}-{zone}", f"EPSG:{32600 + zone}"
    for band, how in (("blue", Resampling.bilinear), ("scl", Resampling.nearest)):
        with rasterio.open(item.assets[band].href) as source:
            pixels, shifted = source.read(1), rasterio.Affine.translation(170_000, 0) @ source.transform
            there = source.bounds
            bounds = (there.left + 170_000, there.bottom, there.right + 170_000, there.top)
            transform, width, height = calculate_default_transform(
                source.crs, crs, source.width, source.height, *bounds, resolution=240
            )
            out = np.zeros((height, width), pixels.dtype)
            reproject(
                pixels, out, src_transform=shifted, src_crs=source.crs, dst_transform=transform, dst_crs=crs,
                resampling=how, src_nodata=0, dst_nodata=0,
            )  # fmt: skip
        path = folder / f"{band}-{zone}.tif"
        profile = {"driver": "GTiff", "dtype": out.dtype, "count": 1, "height": height, "width": width}
        with rasterio.open(path, "w", **profile, crs=crs, transform=transform) as target:
            target.write(out, 1)
        copy.assets[band].href = str(path)
        for name in ("proj:shape", "proj:transform", "proj:code", "proj:epsg", "gsd", "raster:bands"):
            copy.assets[band].extra_fields.pop(name, None)
    return copy
