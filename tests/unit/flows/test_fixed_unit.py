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
from flows.processing.product import ITEM_FILE, make_product
from flows.settings import RunSettings
from flows.settings.loading import load_settings
from stac.load.stack import read_stack
from stac.masks.classes import is_observed
from stac.product.layers import Provenance
from stac.search.opening import open_source
from stac.search.static import sample_catalog


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
