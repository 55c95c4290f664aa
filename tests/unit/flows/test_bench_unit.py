"""The large cell of the benchmark: real pixels, mirrored, with items that say where they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio

from flows.bench.big_cell import write_big_cell
from flows.bench.unit import PipelineMeasurement, UnitMeasurement, as_markdown
from stac.assets import find_asset
from stac.grid import cell_of
from stac.query import Query
from stac.sample_catalog import SAMPLE_COLLECTION, SAMPLE_INTERVAL, sample_catalog
from stac.sources import open_source
from stac.stack import read_stack

SIDE = 1100


def test_the_sample_is_mirrored_into_a_readable_cell(tmp_path: Path) -> None:
    root = write_big_cell(tmp_path / "big", SIDE)
    items = open_source(str(root)).search(Query.parse(SAMPLE_COLLECTION, None, SAMPLE_INTERVAL))
    assert len(items) == 5
    cell = cell_of(items[0], "blue")
    assert cell.geobox.shape == (SIDE, SIDE) and cell.gsd_m == 10
    small = sample_catalog().parent / items[0].id / Path(find_asset(items[0], "blue").href).name
    with rasterio.open(small) as file:
        pixels = file.read(1)
    rows = slice(len(pixels) - 20, len(pixels) + 30)
    stack = read_stack(items, cell.window(rows, slice(0, 100)), ("blue",))
    np.testing.assert_array_equal(stack.dn[0, 0, :20], pixels[-20:, :100])
    np.testing.assert_array_equal(stack.dn[0, 0, 20:], pixels[:-31:-1, :100])


def test_parts_of_stages_are_not_counted_twice() -> None:
    stages = {"prepare": 1.0, "read": 5.0, "waited": 1.0, "restore": 7.0, "model": 6.0, "write": 2.0, "quality": 1.0}
    alone = PipelineMeasurement(1024, 100, stages, 20.0)
    assert (alone.unit_seconds, alone.efficiency) == (12.0, 0.5)
    page = as_markdown(UnitMeasurement(2048, 5, 30.0, stages, 3.0, 2.0, 2**30, alone))
    assert "take 12.0 s" in page and "which is 0.50 (goal 0.8)" in page and "1.50 times a plain rasterio read" in page
