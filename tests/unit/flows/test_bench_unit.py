"""The large cell of the benchmark: real pixels, mirrored, with items that say where they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio

from flows.bench.big_cell import write_big_cell
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
