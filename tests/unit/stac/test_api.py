"""Search, load, composite and write as a notebook calls them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import odc.stac
import pystac
import pytest
import rasterio
import rioxarray
import xarray as xr
from odc.geo.geobox import GeoBox

from stac.api import composite, load, search, write
from stac.catalog.validation import schema_problem
from stac.errors import InvalidInput
from stac.load.stack import ReadOptions, read_stack
from stac.masks.classes import PixelClass, is_observed
from stac.product.layers import Provenance
from stac.search.static import SAMPLE_BBOX, SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog

_BANDS = ("blue", "green", "red", "nir")
#: Inside the sample's tiles.
_BOX = (15.9, 45.7, 16.1, 45.85)


@pytest.fixture(scope="module")
def items() -> list[pystac.Item]:
    found = search(str(sample_catalog()), SAMPLE_COLLECTION, SAMPLE_INTERVAL, bbox=SAMPLE_BBOX)
    return [item for item in found if "33TWL" in item.id]


@pytest.fixture(scope="module")
def scenes(items: list[pystac.Item]) -> xr.Dataset:
    return load(items, bbox=_BOX)


def test_native_pixels_are_those_of_the_files(items: list[pystac.Item]) -> None:
    found = load(items, native=True)
    for index, item in enumerate(items):
        for band in _BANDS:
            with rasterio.open(item.assets[band].href) as file:
                np.testing.assert_array_equal(found[band].values[index], file.read(1))
                assert (found.rio.crs, found.rio.transform()) == (file.crs, file.transform)
    assert found.blue.dtype == np.uint16
    assert (found.blue.rio.nodata, found.blue.attrs["scale_factor"]) == (0, 1e-4)


def test_a_dataset_says_what_it_holds(scenes: xr.Dataset, items: list[pystac.Item]) -> None:
    assert scenes.blue.dims == scenes.mask.dims == ("time", "y", "x")
    assert list(scenes.item_id.values) == [item.id for item in items]
    assert str(scenes.time.values[0]) == "2023-08-10T09:58:11.590000000"
    kinds = dict(zip(scenes.mask.attrs["flag_values"], scenes.mask.attrs["flag_meanings"].split(), strict=True))
    assert kinds[PixelClass.CLOUD] == "cloud"
    assert set(np.unique(scenes.mask)) <= set(kinds)
    assert scenes.radiometry.values[0].startswith("scale 0.0001, offset 0: Earth Search says")
    nodata = (scenes.mask == PixelClass.NODATA).values
    assert np.isnan(scenes.nir.values[nodata]).all()
    assert np.isfinite(scenes.nir.values[~nodata]).all()


def test_resampled_pixels_do_not_depend_on_the_window(items: list[pystac.Item]) -> None:
    box = GeoBox.from_bbox((1_765_000, 5_730_000, 1_790_000, 5_750_000), "EPSG:3857", resolution=200)
    whole, part = load(items[:2], box, native=True), load(items[:2], box[13:41, 27:90], native=True)
    for name in (*_BANDS, "mask"):
        np.testing.assert_array_equal(whole[name].values[:, 13:41, 27:90], part[name].values)
    assert set(np.unique(whole.mask)) <= set(PixelClass)
    assert part.odc.geobox == box[13:41, 27:90]


def test_scenes_of_one_pass_are_one_time(items: list[pystac.Item]) -> None:
    both = search(str(sample_catalog()), SAMPLE_COLLECTION, "2023-08-18", bbox=SAMPLE_BBOX)
    assert len(both) == 2
    found = load(both, load(items[:1]).odc.geobox)
    assert found.sizes["time"] == 1
    assert len(found.source.values[0].split()) == 2


@pytest.mark.parametrize("method", ["fused", "nearest", "median", "geomedian"])
def test_a_composite_keeps_what_was_observed(scenes: xr.Dataset, method: str) -> None:
    found, target = composite(scenes, "2023-08-18", method=method), scenes.sel(time="2023-08-18").squeeze("time")
    observed = (found.provenance == Provenance.OBSERVED).values
    filled = (found.provenance == Provenance.OTHER_DATES).values
    np.testing.assert_array_equal(observed, np.isin(target.mask, (PixelClass.CLEAR, PixelClass.SNOW)))
    assert filled.any()
    for index, band in enumerate(_BANDS):
        np.testing.assert_array_equal(found[band].values[observed], target[band].values[observed])
        assert np.isfinite(found[band].values[filled]).all()
        assert (found.uncertainty.values[index][observed] == 0).all()
        assert (found.uncertainty.values[index][filled] > 0).all()
    assert not (found.source_date.values[filled] == 19587).any(), "filled from the target itself"


def test_digital_numbers_give_the_same_composite(items: list[pystac.Item], scenes: xr.Dataset) -> None:
    numbers, values = composite(load(items, bbox=_BOX, native=True), items[3].id), composite(scenes, "2023-08-18")
    np.testing.assert_array_equal(numbers.provenance, values.provenance)
    for band in _BANDS:
        np.testing.assert_allclose(numbers[band] * 1e-4, values[band].fillna(0), atol=1e-7)


def test_a_written_product_is_read_back(scenes: xr.Dataset, tmp_path: Path) -> None:
    product = composite(scenes, "2023-08-18")
    item = write(product, tmp_path / "product")
    document = json.loads((tmp_path / "product" / f"{item.id}.json").read_text())
    assert schema_problem(document) is None
    assert {asset["href"] for asset in document["assets"].values()} == {
        f"./{path.name}" for path in (tmp_path / "product").iterdir() if path.suffix != ".json"
    }
    assert {link.title for link in item.get_links("derived_from")} == set(scenes.item_id.values)
    data = rioxarray.open_rasterio(item.assets["data"].href)
    found = odc.stac.load([item], bands=["data.1", "provenance"])
    blue = np.rint(product.blue.fillna(0) * 1e4)
    np.testing.assert_array_equal(data.values[0], blue)
    np.testing.assert_array_equal(found["data.1"].values[0], blue)
    np.testing.assert_array_equal(found["provenance"].values[0], product.provenance)
    assert write(product, tmp_path / "again").id == item.id


def test_a_product_does_not_take_the_files_of_another(scenes: xr.Dataset, tmp_path: Path) -> None:
    first = write(composite(scenes, "2023-08-18", method="nearest"), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InvalidInput, match=f"holds the files of {first.id}.*folder of its own"):
        write(composite(scenes, "2023-08-10", method="nearest"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_part_of_a_dataset_and_a_saved_one_are_used_like_it(scenes: xr.Dataset, tmp_path: Path) -> None:
    part = scenes.isel(x=slice(10, 60), y=slice(5, 45))
    found = composite(part, "2023-08-18", method="median")
    assert found.odc.geobox == scenes.odc.geobox[5:45, 10:60]
    whole = composite(scenes, "2023-08-18", method="median")
    np.testing.assert_array_equal(found.blue, whole.blue.isel(x=slice(10, 60), y=slice(5, 45)))
    written = write(found, tmp_path)
    with rasterio.open(written.assets["provenance"].href) as file:
        assert (file.height, file.width) == (40, 50)
        assert file.transform == part.odc.geobox.affine


def test_rows_from_south_to_north_give_the_same_product(scenes: xr.Dataset) -> None:
    upward = composite(scenes.sortby("y"), "2023-08-18")
    xr.testing.assert_equal(upward, composite(scenes, "2023-08-18"))
    assert upward.odc.geobox == scenes.odc.geobox


def test_what_cannot_be_done_is_said(scenes: xr.Dataset, items: list[pystac.Item], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="names 0 of the dates"):
        composite(scenes, "2023-08-19")
    with pytest.raises(InvalidInput, match="'best' is not known; choose one of fused"):
        composite(scenes, "2023-08-18", method="best")
    with pytest.raises(InvalidInput, match="expected bands and `mask`"):
        composite(scenes.drop_vars("mask"), "2023-08-18")
    with pytest.raises(InvalidInput, match="give one of them"):
        load(items, scenes.odc.geobox, bbox=_BOX)
    with pytest.raises(InvalidInput, match="counts in degree"):
        load(items, GeoBox.from_bbox((16.0, 45.7, 16.2, 45.8), "EPSG:4326", resolution=0.002))
    with pytest.raises(InvalidInput, match=r"The grid grid is turned.*give a geobox"):
        load(items, scenes.odc.geobox.rotate(20))
    with pytest.raises(InvalidInput, match="widen the search"):
        load([])
    with pytest.raises(InvalidInput, match="lacks provenance"):
        write(scenes, tmp_path)
    with pytest.raises(InvalidInput, match="'#', which ends an address; name another folder"):
        write(composite(scenes, "2023-08-18", method="nearest"), tmp_path / "a#b")
    with pytest.raises(InvalidInput, match="is an address; name a folder"):
        write(composite(scenes, "2023-08-18", method="nearest"), "s3://bucket/product")


def test_a_dataset_is_what_the_product_path_reads(items: list[pystac.Item], scenes: xr.Dataset) -> None:
    from stac.load.dataset import dataset_stack

    again = dataset_stack(scenes)
    stack = read_stack(items, again.cell, _BANDS, ReadOptions(temporal=True))
    np.testing.assert_array_equal(again.dn, stack.dn)
    np.testing.assert_array_equal(again.classes, stack.classes)
    np.testing.assert_array_equal(again.days, stack.days)
    alone = read_stack(items, again.cell, _BANDS, ReadOptions())
    assert (is_observed(alone.classes) & ~is_observed(again.classes)).any(), "no other date was asked"
