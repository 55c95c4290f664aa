"""The public functions as a notebook calls them: xarray in and out, nothing started."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pystac
import pytest
import rasterio
import rioxarray
import xarray as xr

from flows.api import compare, composite, evaluate, load, publish, restore, search, write
from flows.errors import InvalidSettings
from stac.catalog.check import CheckOptions, check_catalog
from stac.errors import InvalidInput
from stac.masks.classes import PixelClass
from stac.product.layers import Provenance
from stac.search.static import SAMPLE_COLLECTION, SAMPLE_INTERVAL

_BANDS = ("blue", "green", "red", "nir")
#: About 60 x 60 pixels of the sample.
_BOX = (15.9, 45.7, 15.99, 45.76)


@pytest.fixture(scope="module")
def scenes() -> xr.Dataset:
    items = search("sample", SAMPLE_COLLECTION, SAMPLE_INTERVAL, bbox=_BOX)
    return load([item for item in items if "33TWL" in item.id], bbox=_BOX)


@pytest.fixture(scope="module")
def product(scenes: xr.Dataset) -> xr.Dataset:
    return restore(scenes, "2023-08-18", progress=False)


def test_nothing_heavy_is_imported_before_it_is_needed_and_no_service_at_all(tmp_path: Path) -> None:
    program = f"""
import sys
import flows.api
assert not {{"torch", "xarray", "rasterio"}} & set(sys.modules), "imported with the module"
from flows.api import *
items = search("sample", {SAMPLE_COLLECTION!r}, "2023-08-15/2023-08-18", bbox={_BOX})
scenes = load([item for item in items if "33TWL" in item.id], bbox={_BOX})
product = restore(scenes, "2023-08-18", progress=False)
write(product, "written")
publish(product, "catalog")
evaluate(product, scenes.sel(time="2023-08-15").squeeze())
print([name for name in ("prefect", "mlflow", "sqlalchemy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert {path.name for path in tmp_path.iterdir()} == {"written", "catalog"}


def test_restoring_keeps_what_was_observed_and_fills_the_rest(scenes: xr.Dataset, product: xr.Dataset) -> None:
    target, filled = scenes.sel(time="2023-08-18").squeeze(), composite(scenes, "2023-08-18")
    observed = (product.provenance == Provenance.OBSERVED).values
    np.testing.assert_array_equal(observed, np.isin(target.mask, (PixelClass.CLEAR, PixelClass.SNOW)))
    others = (product.provenance == Provenance.OTHER_DATES).values
    gaps = (filled.provenance == Provenance.NOT_RECOVERABLE).values
    assert observed.any()
    assert others.any()
    for band in _BANDS:
        np.testing.assert_array_equal(product[band].values[observed], target[band].values[observed])
        np.testing.assert_array_equal(product[band].values[others], filled[band].values[others])
        assert np.isfinite(product[band].values[gaps]).mean() > 0.9
    xr.testing.assert_identical(restore(scenes, "2023-08-18", progress=False), product)


def test_a_stack_of_ones_own_needs_bands_and_a_mask(scenes: xr.Dataset, product: xr.Dataset) -> None:
    own = scenes[[*reversed(_BANDS)]].drop_vars(["item_id", "radiometry", "source"]).assign_attrs({})
    own["swir16"] = own.nir
    with pytest.raises(InvalidInput, match="lacks mask"):
        restore(own, "2023-08-18", progress=False)
    hidden = ~scenes.mask.isin([PixelClass.CLEAR, PixelClass.SNOW, PixelClass.NODATA])
    own["mask"] = (hidden.dims, hidden.values)
    found = restore(own.transpose("y", "time", "x"), "2023-08-18", progress=False)
    np.testing.assert_array_equal(found.provenance == 1, product.provenance == 1)
    np.testing.assert_array_equal(found.provenance == 2, product.provenance == 2)
    assert np.isfinite(found.red.values[found.provenance == 2]).all()
    assert found.attrs["target"] == "scene-20230818"
    with pytest.raises(InvalidInput, match="divide digital numbers by their scale"):
        restore(own.assign(red=own.red * 10_000), "2023-08-18", progress=False)
    counts = own.map(lambda band: band if band.dtype == bool else (band * 10_000).round().fillna(0).astype("uint16"))
    counts = restore(counts, "2023-08-18", progress=False)
    np.testing.assert_array_equal(counts.provenance, found.provenance)
    with pytest.raises(InvalidInput, match="holds int16; give reflectance"):
        restore(own.assign(red=(own.red * 10_000).fillna(0).astype("int16")), "2023-08-18", progress=False)
    with pytest.raises(InvalidInput, match="give booleans, true where"):
        restore(own.assign(mask=own.mask.astype("uint8")), "2023-08-18", progress=False)
    with pytest.raises(InvalidInput, match="counts in degree"):
        restore(own.rio.write_crs("EPSG:4326"), "2023-08-18", progress=False)
    with pytest.raises(InvalidInput, match="lacks nir"):
        restore(own.drop_vars("nir"), "2023-08-18", progress=False)


def test_one_date_alone_is_restored(scenes: xr.Dataset) -> None:
    found = restore(scenes.sel(time="2023-08-18"), "2023-08-18", progress=False)
    assert set(np.unique(found.provenance)) <= {0, 1, 3, 4, 5, 6}
    assert found.provenance.isin([Provenance.REFERENCE_FILLED, Provenance.GENERATED]).any()


def test_evaluate_says_how_far_fillers_are_from_the_truth(scenes: xr.Dataset) -> None:
    clear, cloudy = "2023-08-15", "2023-08-18"
    hidden = scenes.copy(deep=True)
    hidden["mask"].loc[{"time": hidden.time.sel(time=clear)}] = scenes.mask.sel(time=cloudy).values
    truth = scenes.sel(time=clear).squeeze()
    found = evaluate(restore(hidden, clear, progress=False), truth)
    restored = found.sel(provenance="restored")
    assert (
        int(restored.pixels)
        == int(
            found.pixels.sel(provenance=["other_dates", "reference_filled", "generated", "thin_cloud_corrected"]).sum()
        )
        > 100
    )
    assert float(restored.mae.sel(filler="product")) < float(restored.mae.sel(filler="interpolation"))
    assert float(restored.mae.sel(filler="product")) < float(restored.mae.sel(filler="flat"))
    assert 0.5 < float(restored.coverage.sel(filler="product")) <= 1
    perfect = evaluate(composite(hidden, clear), composite(hidden, clear)[[*_BANDS]]).sel(
        filler="product", provenance="restored"
    )
    assert (float(perfect.mae), float(perfect.bias), float(perfect.coverage)) == (0, 0, 1)
    with pytest.raises(InvalidInput, match="same grid"):
        evaluate(composite(hidden, clear), truth.isel(x=slice(1, None)))


def test_two_images_are_compared_without_network(scenes: xr.Dataset, product: xr.Dataset) -> None:
    shown = compare(scenes.sel(time="2023-08-18").squeeze("time"), product, width=90)._repr_html_()
    assert shown.count("data:image/jpeg;base64,") == 2 and 'src="http' not in shown and "image-compare" in shown
    with pytest.raises(InvalidInput, match=r"sel\(time"):
        compare(scenes, product)


def test_what_is_published_passes_the_check_of_the_catalog(product: xr.Dataset, tmp_path: Path) -> None:
    item = publish(product, tmp_path / "catalog")
    assert publish(product, tmp_path / "catalog").id == item.id
    report = check_catalog(str(tmp_path / "catalog"), CheckOptions())
    assert report.problems == ()
    assert (report.counts.items, report.counts.collections) == (1, 1)
    document = json.loads(Path(item.get_self_href() or "").read_text())
    assert document["properties"]["unveil:model"]["name"] == "unveil-de-small"
    assert document["properties"]["unveil:gate"] in ("passed", "failed")
    found = rioxarray.open_rasterio(
        pystac.Item.from_dict(document, href=item.get_self_href()).get_assets()["data"].get_absolute_href()
    )
    np.testing.assert_array_equal(found.values[0], np.rint(product.blue.fillna(0) * 1e4))


def test_a_restored_product_is_written_as_one_of_the_model(product: xr.Dataset, tmp_path: Path) -> None:
    item = write(product, tmp_path)
    assert item.id.startswith("S2A_33TWL_20230818_0_L2A-unveil-")
    assert item.properties["unveil:model"]["sha256"]


def _own(scenes: xr.Dataset) -> xr.Dataset:
    """Return scenes as a stack of a user's own, whose mask still has the attributes of load()'s."""
    mask = scenes.mask.isin([PixelClass.THIN_CLOUD, PixelClass.CLOUD, PixelClass.SHADOW])
    return scenes.assign(mask=mask.assign_attrs(scenes.mask.attrs)).drop_vars(["item_id", "radiometry", "source"])


def test_numbers_that_are_no_classes_are_refused(scenes: xr.Dataset, product: xr.Dataset) -> None:
    own = _own(scenes)
    ones = own.assign(mask=own.mask.astype("uint8"))
    assert ones.mask.attrs["flag_meanings"], "comparisons keep attributes"
    with pytest.raises(InvalidInput, match="give booleans, true where"):
        restore(ones, "2023-08-18", progress=False)
    with pytest.raises(InvalidInput, match="give booleans, true where"):
        evaluate(product, ones.sel(time="2023-08-15").squeeze())


def test_values_that_are_no_reflectance_are_refused(scenes: xr.Dataset) -> None:
    own = _own(scenes)
    filled = own.assign(red=own.red.where(own.x > float(own.x[5]), -9999.0))
    with pytest.raises(InvalidInput, match=r"red holds -9999, .* make it NaN"):
        restore(filled, "2023-08-18", progress=False)
    mixed = own.assign(nir=(own.nir * 10_000).round().fillna(0).astype("uint16"))
    with pytest.raises(InvalidInput, match=r"side by side \(blue float32, .*nir uint16\); give all as one"):
        restore(mixed, "2023-08-18", progress=False)
    with pytest.raises(InvalidInput, match=r"slope has the dimensions \('y', 'x'\)"):
        composite(own.assign(slope=own.red.isel(time=0, drop=True)), "2023-08-18")


def test_pixels_stay_where_their_coordinates_are(scenes: xr.Dataset) -> None:
    own = _own(scenes)
    with pytest.raises(InvalidInput, match=r"Coordinate x is \d+.* without gaps"):
        composite(own.isel(x=[*range(5), *range(12, own.sizes["x"])]), "2023-08-18")


def test_times_are_dates(scenes: xr.Dataset) -> None:
    own = _own(scenes)
    days = [str(day)[:10] for day in own.time.values]
    assert composite(own.assign_coords(time=days), "2023-08-18").attrs["target"] == "scene-20230818"
    for times, reason in (
        (pd.DatetimeIndex(own.time.values).tz_localize("UTC"), "without a time zone"),
        ([f"{day}th" for day in days], "`time` cannot be read"),
        ([20230810 + number for number in range(len(days))], "`time` holds int64, such as"),
        ([*own.time.values[:-1], np.datetime64("NaT")], "`time` holds an empty date"),
    ):
        with pytest.raises(InvalidInput, match=reason):
            composite(own.assign_coords(time=times), "2023-08-10")


def test_lazy_arrays_are_read(scenes: xr.Dataset, product: xr.Dataset) -> None:
    pytest.importorskip("dask")
    xr.testing.assert_identical(restore(scenes.chunk({"x": 20}), "2023-08-18", progress=False), product)


def test_options_that_do_not_exist_are_named(scenes: xr.Dataset, product: xr.Dataset, tmp_path: Path) -> None:
    for options in ({"gaps": "all"}, {"seed": -1}, {"max_days": -1}, {"device": "tpu"}):
        with pytest.raises(InvalidSettings):
            restore(scenes, "2023-08-18", progress=False, **options)
    with pytest.raises(InvalidInput, match="one product at a time"):
        write(product.expand_dims("time"), tmp_path)


def test_other_pixels_are_published_as_another_version(product: xr.Dataset, tmp_path: Path) -> None:
    first = publish(product, tmp_path, gate=False)
    second = publish(product.assign(blue=product.blue * np.float32(1.5)), tmp_path, gate=False)
    assert first.id != second.id
    with rasterio.open(second.assets["data"].get_absolute_href()) as file:
        np.testing.assert_allclose(file.read(1), np.rint(product.blue.fillna(0) * 1.5e4), atol=1)
