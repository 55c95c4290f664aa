"""One cell of a fixed grid on the border of two real tiles, restored from both with the shipped weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio

from de_model.checkpoint import sha256_of, shipped_weights
from flows.planning.workunit import ModelRef, WorkUnit, make_plan, unit_cell, unit_dates
from flows.processing.product import make_product
from flows.processing.publishing import ITEM_FILE
from flows.settings import RunSettings
from flows.settings.loading import load_settings
from stac.load.stack import read_stack
from stac.masks.classes import is_observed
from stac.product.layers import Provenance
from stac.search.opening import open_source
from stac.search.static import sample_catalog
from tests.faults.world import SIDE, World, truth


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RunSettings:
    wanted = {
        "grid": "fixed", "resolution": 120, "cell_size": 64, "grid_origin": "60,0", "bbox": "15.75,46.08,15.76,46.09",
        "datetime": "2023-08-18", "samples": 1, "steps": 1, "out": tmp_path_factory.mktemp("out"),
    }  # fmt: skip
    return load_settings(None, wanted)


@pytest.fixture(scope="module")
def items(settings: RunSettings) -> dict[str, pystac.Item]:
    return {item.id: item for item in open_source(str(sample_catalog())).search(settings.search)}


@pytest.fixture(scope="module")
def planned(settings: RunSettings, items: dict[str, pystac.Item]) -> tuple[WorkUnit, ModelRef]:
    weights = shipped_weights()
    model = ModelRef("unveil-de", "1", sha256_of(weights), str(weights))
    (unit,) = make_plan(list(items.values()), settings, model).units
    return unit, model


@pytest.fixture(scope="module")
def folder(
    settings: RunSettings, items: dict[str, pystac.Item], planned: tuple[WorkUnit, ModelRef],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    staging = tmp_path_factory.mktemp("staging")
    # A product names its sources by the addresses of their archive; the copies here keep those of the files.
    make_product(planned[0], {name: item.clone() for name, item in items.items()}, settings, planned[1], staging)
    return staging


def test_the_product_names_every_scene_it_was_made_of(folder: Path, planned: tuple[WorkUnit, ModelRef]) -> None:
    unit = planned[0]
    assert len(unit.dates) == 5 and all(len(date) == 2 for date in unit.dates)
    document = json.loads((folder / ITEM_FILE).read_text())
    *sources, model = (link["title"] for link in document["links"] if link["rel"] == "derived_from")
    assert model.startswith("Model ")
    assert sorted(sources) == sorted(item_id for date in unit.dates for item_id in date)
    assert document["properties"]["proj:code"] == "EPSG:32633" and unit.cell_id in document["id"]
    days = {source["id"]: source["date"] for source in json.loads((folder / "metadata.json").read_text())["sources"]}
    assert len(days) == 10 and {day.replace("-", "") in item_id for item_id, day in days.items()} == {True}


def test_observed_pixels_are_those_of_the_mosaic_and_dated_by_its_pass(
    folder: Path, settings: RunSettings, items: dict[str, pystac.Item], planned: tuple[WorkUnit, ModelRef]
) -> None:
    unit = planned[0]
    dates = unit_dates(unit, items)
    target = dates[0]
    stack = read_stack(dates, unit_cell(unit, items, settings), settings.bands, settings.reading)
    with rasterio.open(folder / "data.tif") as data, rasterio.open(folder / "provenance.tif") as provenance:
        pixels, origin = data.read(), provenance.read(1)
    with rasterio.open(folder / "source_date.tif") as dates:
        days = dates.read(1)
    observed = is_observed(stack.classes[0])
    assert observed.mean() > 0.1 and np.array_equal(origin == Provenance.OBSERVED, observed)
    assert np.array_equal(pixels[:, observed], stack.dn[0][:, observed])
    assert (days[observed] == target.day).all()
    alone = read_stack([target.items[0]], stack.cell, settings.bands, settings.reading)
    assert 0 < (alone.classes[0] == 0).mean() < 1, "one tile alone does not cover the cell"


def test_a_date_that_lies_off_fills_the_target_where_it_belongs(tmp_path: Path) -> None:
    """The source date lies two rows and a column off; the target is where it is."""
    texture = np.random.default_rng(1).integers(0, 1500, (SIDE, SIDE))
    clouds = np.full((SIDE, SIDE), 4, np.uint8)
    clouds[28:36, 28:36] = 9
    world = World(tmp_path)
    world.scene("S2A_33TWM_20230810_0_L2A", dn=lambda values: values + texture + 1000, classes=clouds)
    world.scene(
        "S2A_33TWM_20230815_0_L2A", "2023-08-15T10:00:00Z",
        dn=lambda values: np.roll(values + texture + 1000, (2, 1), axis=(0, 1)),
    )  # fmt: skip
    items = {item.id: item for item in world.search()[0]}
    wanted = {
        "datetime": "2023-08-10", "composite_days": 9, "max_cloud": 100, "use_model": False, "cloud_dilation_m": 0,
        "out": tmp_path / "o",
    }  # fmt: skip
    settings = load_settings(None, wanted)
    weights = shipped_weights()
    model = ModelRef("unveil-de", "1", sha256_of(weights), str(weights))
    (unit,) = [u for u in make_plan(list(items.values()), settings, model).units if "20230810" in u.target_id]
    staging = tmp_path / "staging"
    staging.mkdir()
    make_product(unit, items, settings, model, staging)
    (shift,) = json.loads((staging / "metadata.json").read_text())["shifts_px"].values()
    assert shift["corrected"]
    assert (shift["rows"], shift["columns"]) == (pytest.approx(2, abs=0.1), pytest.approx(1, abs=0.1))
    with rasterio.open(staging / "data.tif") as data, rasterio.open(staging / "provenance.tif") as provenance:
        pixels, origin = data.read().astype(int), provenance.read(1)
    expected = truth() + texture
    observed, filled = origin == Provenance.OBSERVED, origin == Provenance.OTHER_DATES
    assert np.array_equal(pixels[:, observed], expected[:, observed])
    assert filled[clouds == 9].all() and np.abs(pixels - expected)[:, filled].mean() < 60
