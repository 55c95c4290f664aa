"""Mosaics of cells of the sample, made without Prefect: other methods, and ground that no date saw."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio

from de_model.checkpoint import sha256_of, shipped_weights
from flows.planning.mosaics import MosaicPlan, MosaicUnit, mosaic_cell, mosaic_dates, of_period, plan_period, region_of
from flows.planning.periods import named_period
from flows.planning.workunit import ModelRef
from flows.processing.period import make_mosaic
from flows.processing.product import ITEM_FILE
from flows.settings import RunSettings
from flows.settings.loading import load_settings
from flows.settings.mosaic_options import MosaicOptions
from stac.catalog.validation import validate_item
from stac.composite.region import Method
from stac.load.stack import read_stack
from stac.masks.classes import PixelClass, is_observed
from stac.product.layers import Provenance
from stac.search.opening import open_source
from stac.search.static import sample_catalog


def planned(
    out: Path, days: str, options: MosaicOptions, bbox: str, source: Path | None = None, cell_size: int = 64
) -> tuple[MosaicPlan, RunSettings, dict[str, pystac.Item]]:
    grid = {"grid": "fixed", "resolution": 120, "cell_size": cell_size, "grid_origin": "60,0"}
    given = load_settings(None, {"out": out, "bbox": bbox, "samples": 1, "steps": 1, **grid})
    region, period = region_of(given, options), named_period(days)
    settings = of_period(given, region, period)
    items = open_source(str(source or sample_catalog())).search(settings.search)
    weights = shipped_weights()
    model = ModelRef("unveil-de", "1", sha256_of(weights), str(weights))
    plan = plan_period(items, settings, options, region, period, model)
    return plan, settings, {item.id: item for item in items}


def made(
    world: tuple[MosaicPlan, RunSettings, dict[str, pystac.Item]],
    unit: MosaicUnit,
    options: MosaicOptions,
    folder: Path,
) -> dict[str, np.ndarray]:
    (plan, settings, items), weights = world, shipped_weights()
    model = ModelRef("unveil-de", "1", sha256_of(weights), str(weights))
    copies = {name: item.clone() for name, item in items.items()}
    make_mosaic(unit, copies, settings, options, plan.radiometry_of(unit), model, folder)
    validate_item(json.loads((folder / ITEM_FILE).read_text()))
    layers = {}
    for name in ("data", "count", "provenance"):
        with rasterio.open(folder / f"{name}.tif") as source:
            layers[name] = source.read()
    return layers


@pytest.mark.parametrize("method", [Method.MEDIAN, Method.GEOMEDIAN, Method.MEDOID])
def test_a_composite_of_all_looks_is_made_where_there_is_one_and_called_so(method: Method, tmp_path: Path) -> None:
    options = MosaicOptions(method=method)
    plan, settings, items = planned(tmp_path / "out", "2023-08-10/2023-08-20", options, "15.75,46.08,15.76,46.09")
    unit = plan.units[0]
    found = made((plan, settings, items), unit, options, tmp_path)
    seen = found["count"][0] > 0
    assert seen.mean() > 0.9
    assert (found["provenance"][0][seen] == Provenance.OTHER_DATES).all(), "none is one date's own pixel"
    assert not np.isin(found["provenance"][0][~seen], (Provenance.OBSERVED, Provenance.OTHER_DATES)).any()
    stack = read_stack(mosaic_dates(unit, items), mosaic_cell(unit, items, settings), settings.bands, settings.reading)
    looks = np.where(is_observed(stack.classes)[:, None], stack.dn, np.nan)[:, :, seen]
    inside = (found["data"][:, seen] >= np.nanmin(looks, axis=0) * 0.7) & (
        found["data"][:, seen] <= np.nanmax(looks, axis=0) * 1.3
    )
    assert inside.mean() > 0.98, "in the range of the looks, as far as the radiometry of one date allows"


def test_a_cell_that_no_date_saw_is_not_invented(tmp_path: Path) -> None:
    options = MosaicOptions()
    plan, settings, items = planned(tmp_path / "out", "2023-08-10/2023-08-10", options, "15.24,45.55,16.40,46.05")
    for unit in plan.units:
        cell = mosaic_cell(unit, items, settings)
        (classes,) = read_stack(mosaic_dates(unit, items), cell, settings.bands, settings.reading).classes
        if not is_observed(classes).any() and (classes != PixelClass.NODATA).any():
            break
    else:
        pytest.fail("every cell has a clear look; choose another date")
    found = made((plan, settings, items), unit, options, tmp_path)
    assert not found["count"].any() and not found["data"].any()
    assert set(np.unique(found["provenance"])) <= {Provenance.NODATA, Provenance.NOT_RECOVERABLE}
    told = json.loads((tmp_path / ITEM_FILE).read_text())["properties"]
    assert told["unveil:clear_looks"]["without"] == 1.0 and told["unveil:not_recoverable"] == 100.0


def test_a_date_that_lies_too_far_off_is_left_out_and_the_rest_is_made(tmp_path: Path) -> None:
    far, source = "S2B_33TWM_20230820_0_L2A", tmp_path / "source" / "catalog.json"
    shutil.copytree(sample_catalog().parent, source.parent)
    for path in (source.parent / far).glob("*.tif"):
        with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as scene:
            scene.write(np.roll(scene.read(), (2, 4), (1, 2)))
    options, bbox = MosaicOptions(method=Method.BEST), "15.30,46.20,15.35,46.24"
    plan, settings, items = planned(tmp_path / "out", "2023-08-10/2023-08-20", options, bbox, source, 256)
    unit = plan.units[0]
    assert any(far in date for date in unit.dates)
    made((plan, settings, items), unit, options, tmp_path)
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    shift = next(shift for name, shift in metadata["shifts_px"].items() if "20230820" in name)
    assert (shift["rows"], shift["columns"]) == pytest.approx((2, 4), abs=0.3) and not shift["corrected"]
    assert metadata["sources"] and not any("20230820" in scene["id"] for scene in metadata["sources"])
    sources = pystac.Item.from_file(str(tmp_path / ITEM_FILE)).get_links("derived_from")
    assert sources and not any("20230820" in str(link.title) for link in sources)
